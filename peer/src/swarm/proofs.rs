//! Fetching chaining values from peers.

use super::pieces::Stage;
use super::session::Session;
use super::state::Swarm;
use super::{ConnId, Outcome, Output, Time};
use shoal_protocol::{Message, WireError};
use std::collections::BTreeSet;
use std::time::Duration;

/// A peer that could not give CVs is asked again after this long: it may have learnt them.
pub(super) const NO_CVS_FOR: Duration = Duration::from_secs(2);

impl Swarm {
    /// Asks for CV batches that nobody was asked for yet: one at a time of each peer that may have them.
    pub(super) fn fetch_cvs(&mut self, now: Time) {
        if self.cvs.is_complete() {
            return;
        }
        let mut asked: BTreeSet<u32> = self.sessions.values().filter_map(|s| s.cv_asked.map(|(b, _)| b)).collect();
        let able = |s: &Session| {
            s.told
                && !s.closing
                && s.no_cvs_until <= now
                && s.cv_late.is_none()
                && s.cv_asked.is_none()
                && s.have.count() > 0
        };
        let mut conns: Vec<(bool, ConnId)> =
            self.sessions.iter().filter(|(_, s)| able(s)).map(|(c, s)| (!s.is_seed(), *c)).collect();
        conns.sort_unstable();
        for (_, conn) in conns {
            let Some((first, count)) = self.cvs.next_missing(&asked) else { return };
            asked.insert(first);
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.cv_asked = Some((first, now));
            }
            self.send(now, conn, Message::CvRequest { first, count });
        }
    }

    pub(super) fn told_cvs(
        &mut self,
        now: Time,
        conn: ConnId,
        first: u32,
        count: u32,
        hashes: &[shoal_protocol::Hash],
    ) -> Result<(), WireError> {
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        match session.cv_asked {
            Some((batch, _)) if batch == first => session.cv_asked = None,
            _ if session.cv_late == Some(first) => session.cv_late = None,
            _ => return Err(WireError::Unexpected("CVs")),
        }
        if first.checked_add(count).is_none_or(|end| end > self.geometry.pieces()) {
            return Err(WireError::OutOfRange("CVs"));
        }
        if hashes.is_empty() && self.cvs.answer_len(first, count) > 0 {
            session.no_cvs_until = now + NO_CVS_FOR;
            self.fetch_cvs(now);
            return Ok(());
        }
        let runs =
            self.cvs.learn(first, count, hashes).ok_or(WireError::OutOfRange("CVs that do not fold to the root"))?;
        for (first, cvs) in runs {
            self.out.push_back(Output::KeepCvs { first, cvs });
        }
        let waiting: Vec<(u32, shoal_protocol::Hash)> = self
            .pieces
            .map
            .iter()
            .filter_map(|(n, p)| if let Stage::AwaitingCv(cv) = p.stage { Some((*n, cv)) } else { None })
            .collect();
        for (piece, cv) in waiting {
            self.hashed(now, piece, Outcome::Cv(cv));
        }
        self.fetch_cvs(now);
        Ok(())
    }
}
