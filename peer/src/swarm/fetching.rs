//! Blocks: asked for, arrived, given back, refused, overdue.

use super::pieces::{BlockState, Stage, blocks_in};
use super::state::Swarm;
use super::waste::Cause;
use super::{ConnId, Output, Time};
use shoal_protocol::message::{Block, RejectReason};
use shoal_protocol::{Message, WireError};
use std::time::Duration;

/// A peer that told us to ask others is left in peace for this long.
pub(super) const BUSY_FOR: Duration = Duration::from_secs(2);
/// Even where nobody else can be asked, a peer that is busy is asked for nothing for so long.
pub(super) const HOLD: Duration = Duration::from_millis(200);
/// A piece that a peer rejected is not asked of it for so long.
const REFUSED_FOR: Duration = Duration::from_secs(5);

impl Swarm {
    /// A block that was asked of a peer won't come from it.
    pub(super) fn give_back(&mut self, conn: ConnId, block: Block) {
        let Some(progress) = self.pieces.map.get_mut(&block.piece) else { return };
        let Some(index) = progress.index_of(block) else { return };
        if progress.unask(index, conn) {
            // Its owner may be on another piece by now and would not come back for this block: whoever is free takes it.
            if let Some(owner) = progress.owner
                && self.on_piece.get(&owner) == Some(&block.piece)
            {
                self.on_piece.remove(&owner);
            }
            self.pieces.disown(block.piece);
            self.start_over_if_alone(block.piece);
        }
        self.drop_if_untouched(block.piece);
    }

    pub(super) fn release_piece(&mut self, conn: ConnId) {
        self.on_piece.remove(&conn);
        let owned: Vec<u32> = self.pieces.map.iter().filter(|(_, p)| p.owner == Some(conn)).map(|(n, _)| *n).collect();
        for piece in owned {
            self.pieces.disown(piece);
            self.start_over_if_alone(piece);
            self.drop_if_untouched(piece);
        }
    }

    /// A piece that must come from one peer lost that peer: what is there of it is thrown away.
    fn start_over_if_alone(&mut self, piece: u32) {
        let Some(progress) = self.pieces.map.get_mut(&piece) else { return };
        let idle = progress.blocks.iter().all(|b| !matches!(b, BlockState::Asked(..)));
        if progress.stage == Stage::Fetching && progress.solo && idle && progress.has_received() {
            let length: u32 = (0..progress.blocks.len() as u32)
                .filter(|i| matches!(progress.blocks[*i as usize], BlockState::Received(_)))
                .map(|i| progress.block(piece, i).length)
                .sum();
            progress.clear();
            self.pieces.orphans.insert(piece);
            self.counters.waste.add(Cause::Bad, length.into());
            self.out.push_back(Output::Restart { piece });
        }
    }

    /// A started piece of which nothing is there or asked for goes back to the picker.
    pub(super) fn drop_if_untouched(&mut self, piece: u32) {
        let untouched =
            self.pieces.map.get(&piece).is_some_and(|p| p.stage == Stage::Fetching && p.is_untouched() && !p.solo);
        if untouched {
            self.pieces.remove(piece);
            self.picker.insert(piece);
        }
    }

    /// A block that we asked for is no longer expected from this peer.
    pub(super) fn withdraw(&mut self, now: Time, conn: ConnId, block: Block, why: Cause, tell: bool) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Some(asked) = session.pipeline.take(block) else { return };
        session.pipeline.in_vain(now);
        session.expect_cancelled(block, why, 1);
        self.recall_is_over(&asked);
        if tell && asked.recalled.is_none() {
            self.send(now, conn, Message::Cancel(block));
        }
        self.give_back(conn, block);
    }

    /// A piece needn't be sent by anyone any more.
    pub(super) fn withdraw_piece(&mut self, now: Time, piece: u32) {
        let Some(progress) = self.pieces.map.get_mut(&piece) else { return };
        let mut asked = Vec::new();
        for index in 0..progress.blocks.len() as u32 {
            if let BlockState::Asked(conn) = progress.blocks[index as usize] {
                asked.push((conn, progress.block(piece, index)));
            }
        }
        for (conn, block) in asked {
            self.withdraw(now, conn, block, Cause::Needless, true);
        }
    }

    /// # Errors
    /// When the peer keeps rejecting what was never asked of it: each reject costs a look at all connections.
    pub(super) fn rejected(
        &mut self,
        now: Time,
        conn: ConnId,
        block: Block,
        reason: RejectReason,
    ) -> Result<(), WireError> {
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if block.piece == u32::MAX {
            if !session.pipeline.any_answered(now) {
                return session.unexpected(block).map(|_| ());
            }
            session.assigns = false;
            session.pipeline.begin_anew(now);
            self.count_zone(conn);
        } else {
            if reason == RejectReason::NoUpload {
                session.hello.no_upload = true;
            }
            // It may have been asked for again meanwhile: answers come in the order of what they answer.
            if reason == RejectReason::Cancelled && session.take_cancelled(block).is_some() {
                return Ok(());
            }
            if let Some(asked) = session.pipeline.take(block) {
                session.pipeline.in_vain(now);
                if reason == RejectReason::QueueFull {
                    session.busy_until = now + BUSY_FOR;
                    session.hold_until = now + HOLD;
                } else if let Some((thief, _)) = asked.recalled
                    && reason == RejectReason::Cancelled
                {
                    self.hand_over(now, conn, &asked, thief);
                    return Ok(());
                } else {
                    session.refused.insert(block.piece, now + REFUSED_FOR);
                }
                self.recall_is_over(&asked);
                self.give_back(conn, block);
            } else {
                return session.unexpected(block).map(|_| ());
            }
        }
        self.refill_all(now);
        Ok(())
    }

    pub(super) fn assigned(&mut self, now: Time, conn: ConnId, piece: u32) -> Result<(), WireError> {
        let length = self.geometry.piece_length(piece);
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if length == 0 || !session.pipeline.any_answered(now) {
            return Err(WireError::Unexpected("an assignment"));
        }
        if self.have.has(piece) || self.pieces.map.contains_key(&piece) || !session.may_send(now, piece) {
            let all = Block { piece, offset: 0, length: 0 };
            session.expect_cancelled(all, Cause::Assigned, blocks_in(length));
            self.send(now, conn, Message::Cancel(all));
        } else {
            self.picker.remove(piece);
            let progress = self.pieces.own(piece, length, conn);
            progress.solo |= self.blame.open.contains_key(&piece);
            for index in 0..blocks_in(length) {
                progress.blocks[index as usize] = BlockState::Asked(conn);
                session.pipeline.ask(now, progress.block(piece, index));
            }
        }
        self.refill(now, conn);
        Ok(())
    }

    pub(super) fn block_arrived(&mut self, now: Time, conn: ConnId, block: Block) {
        self.counters.downloaded += u64::from(block.length);
        self.total_down.add(now, block.length.into());
        let Some(session) = self.sessions.get_mut(&conn) else {
            self.discard(block, Cause::Stray);
            return;
        };
        session.heard = now;
        if session.closing {
            self.discard(block, Cause::Stray);
            return;
        }
        let Some(asked) = session.pipeline.take(block) else {
            session.pipeline.spoke(now);
            match session.unexpected(block) {
                // Given up and yet here: welcome, if nobody else was faster.
                Ok(Some(_)) if self.is_still_wanted(conn, block) => self.store(now, conn, block),
                Ok(why) => self.discard(block, why.unwrap_or(Cause::Stray)),
                Err(error) => {
                    self.discard(block, Cause::Stray);
                    self.misbehaved(conn, &error);
                }
            }
            return;
        };
        session.pipeline.arrived(now, block, asked.at);
        session.rests.0 = now;
        session.delivered += u64::from(block.length);
        if session.is_seed() {
            self.counters.from_seeds += u64::from(block.length);
        }
        self.recall_is_over(&asked);
        self.store(now, conn, block);
        self.refill(now, conn);
        if let Some((thief, _)) = asked.recalled {
            self.refill(now, thief);
        }
    }

    fn discard(&mut self, block: Block, why: Cause) {
        self.counters.waste.add(why, block.length.into());
        self.out.push_back(Output::Discard);
    }

    /// Whether a block that was cancelled may be stored: it is missing still, and its piece may have several senders.
    fn is_still_wanted(&self, conn: ConnId, block: Block) -> bool {
        let Some(progress) = self.pieces.map.get(&block.piece) else { return false };
        let Some(index) = progress.index_of(block) else { return false };
        let missing = !matches!(progress.blocks[index as usize], BlockState::Received(_));
        progress.stage == Stage::Fetching && missing && (!progress.solo || progress.owner == Some(conn))
    }

    fn store(&mut self, now: Time, conn: ConnId, block: Block) {
        let progress = self.pieces.map.get_mut(&block.piece);
        let Some((progress, index)) = progress.and_then(|p| p.index_of(block).map(|i| (p, i))) else {
            self.discard(block, Cause::Stray);
            return;
        };
        let loser = match progress.blocks[index as usize] {
            BlockState::Asked(other) if other != conn => Some(other),
            _ => None,
        };
        if progress.stage != Stage::Fetching || !progress.receive(index, conn) {
            self.discard(block, Cause::Beaten);
            return;
        }
        let last = progress.is_whole();
        if last {
            progress.stage = Stage::Hashing;
        }
        if progress.first_missing().is_none() {
            self.pieces.orphans.remove(&block.piece);
        }
        self.out.push_back(Output::Store { block, last });
        if let Some(loser) = loser {
            self.withdraw(now, loser, block, Cause::Beaten, true);
            self.refill(now, loser);
        }
    }

    pub(super) fn refill_all(&mut self, now: Time) {
        if self.told_complete {
            return;
        }
        let mut conns: Vec<ConnId> = self.sessions.keys().copied().collect();
        if self.zones.is_mixed() {
            // Few of the far ones are asked at a time: not always the same.
            let first = self.rng.below(conns.len());
            conns.rotate_left(first);
        }
        for conn in conns {
            self.refill(now, conn);
        }
    }

    pub(super) fn origin_is_spared(&mut self, now: Time) -> bool {
        // Not in favour of those who are farther away than an origin is.
        let origins = self.sessions.values().filter(|s| s.hello.spreads && s.told && !s.closing);
        let (near, from_origin) =
            origins.fold((0, 0.0), |(near, sum), s| (s.place.nearness.max(near), sum + s.pipeline.rate(now)));
        let others = self.sessions.values().filter(|s| {
            s.is_seed() && !s.hello.spreads && !s.pipeline.snubbed && !s.closing && s.place.nearness >= near
        });
        let others = others.count();
        let rate = self.total_down.rate(now);
        self.spare.update(now, others, rate, from_origin)
    }

    /// A peer owes blocks for too long: what it was asked for is asked of others. What it sends nevertheless is welcome
    /// until somebody else was faster.
    pub(super) fn snub(&mut self, now: Time, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let owed: Vec<Block> = session.pipeline.asked.iter().map(|a| a.block).collect();
        for block in owed {
            self.withdraw(now, conn, block, Cause::Overdue, true);
        }
        self.release_piece(conn);
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.pipeline.snub(now);
        }
        self.refill_all(now);
    }
}
