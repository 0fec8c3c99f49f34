//! Fetching chaining values from peers.
//!
//! Contract: no piece of a large file is had before its CV is, so whoever takes CVs to keep them from us holds up everything.
//! A batch is asked of one peer; while that owes it, of a second after [`HEDGE`], of four after twice that, and so on. At
//! most [`AWAITING_MAX`] bytes of pieces are begun before that, as until then anybody's rubbish looks like payload.

use super::pieces::Stage;
use super::session::Session;
use super::state::Swarm;
use super::{ConnId, Outcome, Output, Time};
use shoal_protocol::{Message, WireError};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a peer may take for a batch until another one is asked for it, too. A batch has 32 KiB.
const HEDGE: Duration = Duration::from_millis(500);
const AWAITING_MAX: u64 = 64 << 20;

/// A peer that could not give CVs is asked again after this long: it may have learnt them.
pub(super) const NO_CVS_FOR: Duration = Duration::from_secs(2);

impl Swarm {
    /// Asks for CV batches: one at a time of each peer that may have them.
    pub(super) fn fetch_cvs(&mut self, now: Time) {
        if self.cvs.is_complete() {
            return;
        }
        // Who owes each batch: how many, and since when.
        let mut owed: BTreeMap<u32, (u32, Time)> = BTreeMap::new();
        for (batch, at) in self.sessions.values().filter_map(|s| s.proofs.asked) {
            let (count, since) = owed.entry(batch).or_insert((0, at));
            (*count, *since) = (*count + 1, (*since).min(at));
        }
        let enough = |(count, since): (u32, Time)| {
            let periods = now.since(since).as_micros() / HEDGE.as_micros();
            count >> periods.min(30) > 0
        };
        let mut asked: BTreeSet<u32> = owed.iter().filter(|(_, by)| enough(**by)).map(|(batch, _)| *batch).collect();
        let able = |s: &Session| {
            s.told
                && !s.closing
                && s.proofs.not_before <= now
                && s.proofs.late.is_none()
                && s.proofs.asked.is_none()
                && s.have.count() > 0
        };
        let trust = |s: &Session| (!s.proven, !s.is_seed());
        let mut conns: Vec<_> = self.sessions.iter().filter(|(_, s)| able(s)).map(|(c, s)| (trust(s), *c)).collect();
        conns.sort_unstable();
        for (_, conn) in conns {
            let Some((first, count)) = self.cvs.next_missing(&asked) else { return };
            let by = owed.entry(first).or_insert((0, now));
            by.0 += 1;
            if enough(*by) {
                asked.insert(first);
            }
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.proofs.asked = Some((first, now));
            }
            self.send(now, conn, Message::CvRequest { first, count });
        }
    }

    /// Whether so much is under way whose CVs aren't known that no more is to be begun.
    pub(super) fn awaits_cvs(&self) -> bool {
        let waiting = || self.pieces.map.keys().filter(|piece| self.cvs.lacks(**piece)).count() as u64;
        !self.cvs.is_complete() && waiting() * u64::from(self.geometry.piece_size()) >= AWAITING_MAX
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
        match session.proofs.asked {
            Some((batch, _)) if batch == first => session.proofs.asked = None,
            _ if session.proofs.late == Some(first) => session.proofs.late = None,
            _ => return Err(WireError::Unexpected("CVs")),
        }
        // Whole batches are asked for: with a part of one the rest would never come.
        if count != self.cvs.batch_len(first) {
            return Err(WireError::OutOfRange("CVs"));
        }
        if hashes.is_empty() && self.cvs.answer_len(first, count) > 0 {
            session.proofs.not_before = now + NO_CVS_FOR;
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
