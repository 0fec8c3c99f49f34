//! The connections of a swarm, by name.
//!
//! There are tens of them, all are walked often and each is looked up for every word that comes: names stand side by side
//! in order, so that a search stays within few cache lines, and each session is one allocation that never moves.

use super::ConnId;
use super::session::Session;
use std::ops::Index;

/// Connections in ascending order of their names.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    names: Vec<ConnId>,
    #[expect(clippy::vec_box, reason = "moving half a kilobyte for each place is what the boxes avoid")]
    list: Vec<Box<Session>>,
}

impl Sessions {
    fn find(&self, conn: ConnId) -> Option<usize> {
        self.names.binary_search(&conn).ok()
    }

    /// The connection of this name.
    #[must_use]
    pub(super) fn get(&self, conn: &ConnId) -> Option<&Session> {
        self.find(*conn).map(|at| &*self.list[at])
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, conn: &ConnId) -> Option<&mut Session> {
        self.find(*conn).map(|at| &mut *self.list[at])
    }

    /// Adds a connection; names are never used twice.
    pub(super) fn insert(&mut self, conn: ConnId, session: Session) {
        let at = self.names.partition_point(|name| *name < conn);
        self.names.insert(at, conn);
        self.list.insert(at, Box::new(session));
    }

    /// Takes a connection out.
    pub(super) fn remove(&mut self, conn: &ConnId) -> Option<Session> {
        let at = self.find(*conn)?;
        self.names.remove(at);
        Some(*self.list.remove(at))
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ConnId, &Session)> + Clone {
        self.names.iter().zip(self.list.iter().map(|s| &**s))
    }

    /// Their names.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ConnId> {
        self.names.iter()
    }

    /// What they are.
    pub(super) fn values(&self) -> impl Iterator<Item = &Session> {
        self.list.iter().map(|s| &**s)
    }

    /// The same, to change them.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.list.iter_mut().map(|s| &mut **s)
    }

    /// How many there are.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl Index<&ConnId> for Sessions {
    type Output = Session;
    fn index(&self, conn: &ConnId) -> &Session {
        self.get(conn).expect("a connection that was looked up before")
    }
}
