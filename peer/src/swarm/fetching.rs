//! Blocks: asked for, arrived, given back, refused, overdue.

use super::pieces::{BlockState, Stage, blocks_in};
use super::state::Swarm;
use super::{ConnId, Output, Time};
use shoal_protocol::message::{Block, RejectReason};
use shoal_protocol::{Message, WireError};
use std::time::Duration;

/// A peer that told us to ask others is left in peace for this long.
pub(super) const BUSY_FOR: Duration = Duration::from_secs(2);

impl Swarm {
    /// A block that was asked of a peer won't come from it.
    pub(super) fn give_back(&mut self, conn: ConnId, block: Block) {
        let Some(progress) = self.pieces.map.get_mut(&block.piece) else { return };
        let Some(index) = progress.index_of(block) else { return };
        if progress.unask(index, conn) && (progress.owner.is_none() || progress.owner == Some(conn)) {
            self.pieces.disown(block.piece);
            if self.on_piece.get(&conn) == Some(&block.piece) {
                self.on_piece.remove(&conn);
            }
        }
        self.drop_if_untouched(block.piece);
    }

    pub(super) fn release_piece(&mut self, conn: ConnId) {
        self.on_piece.remove(&conn);
        let owned: Vec<u32> = self.pieces.map.iter().filter(|(_, p)| p.owner == Some(conn)).map(|(n, _)| *n).collect();
        for piece in owned {
            self.pieces.disown(piece);
            self.drop_if_untouched(piece);
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
    pub(super) fn withdraw(&mut self, now: Time, conn: ConnId, block: Block, tell: bool) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.pipeline.take(block).is_none() {
            return;
        }
        session.expect_cancelled(block);
        if tell {
            self.send(now, conn, Message::Cancel(block));
        }
        self.give_back(conn, block);
    }

    pub(super) fn rejected(&mut self, now: Time, conn: ConnId, block: Block, reason: RejectReason) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if block.piece == u32::MAX {
            session.pipeline.asks = session.pipeline.asks.saturating_sub(1);
            session.assigns = false;
        } else {
            if reason == RejectReason::NoUpload {
                session.hello.no_upload = true;
            }
            if session.pipeline.take(block).is_some() {
                if matches!(reason, RejectReason::NotHad | RejectReason::Failed) {
                    session.refused.insert(block.piece);
                }
                if reason == RejectReason::QueueFull {
                    session.busy_until = now + BUSY_FOR;
                }
                self.give_back(conn, block);
            }
        }
        self.refill_all(now);
    }

    pub(super) fn assigned(&mut self, now: Time, conn: ConnId, piece: u32) -> Result<(), WireError> {
        let length = self.geometry.piece_length(piece);
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if length == 0 || session.pipeline.asks == 0 {
            return Err(WireError::Unexpected("an assignment"));
        }
        session.pipeline.asks -= 1;
        if self.have.has(piece) || self.pieces.map.contains_key(&piece) || session.refused.contains(&piece) {
            let all = Block { piece, offset: 0, length: 0 };
            session.expect_cancelled(all);
            self.send(now, conn, Message::Cancel(all));
        } else {
            self.picker.remove(piece);
            let progress = self.pieces.own(piece, length, conn);
            for index in 0..blocks_in(length) {
                progress.blocks[index as usize] = BlockState::Asked(conn, None);
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
            self.counters.wasted += u64::from(block.length);
            self.out.push_back(Output::Discard);
            return;
        };
        session.heard = now;
        let Some(asked) = session.pipeline.take(block) else {
            self.counters.wasted += u64::from(block.length);
            self.out.push_back(Output::Discard);
            session.pipeline.spoke(now);
            if let Err(error) = session.unexpected(block) {
                self.misbehaved(conn, &error);
            }
            return;
        };
        session.pipeline.arrived(now, block, asked.at);
        session.delivered += u64::from(block.length);
        if session.is_seed() {
            self.counters.from_seeds += u64::from(block.length);
        }
        self.store(now, conn, block);
        self.refill(now, conn);
    }

    pub(super) fn store(&mut self, now: Time, conn: ConnId, block: Block) {
        let progress = self.pieces.map.get_mut(&block.piece);
        let Some((progress, index)) = progress.and_then(|p| p.index_of(block).map(|i| (p, i))) else {
            self.counters.wasted += u64::from(block.length);
            self.out.push_back(Output::Discard);
            return;
        };
        let loser = match progress.blocks[index as usize] {
            BlockState::Asked(a, Some(b)) if a == conn => Some(b),
            BlockState::Asked(a, Some(b)) if b == conn => Some(a),
            BlockState::Asked(a, None) if a != conn => Some(a),
            _ => None,
        };
        if progress.stage != Stage::Fetching || !progress.receive(index, conn) {
            self.counters.wasted += u64::from(block.length);
            self.out.push_back(Output::Discard);
            return;
        }
        let last = progress.is_whole();
        if last {
            progress.stage = Stage::Hashing;
            self.pieces.orphans.remove(&block.piece);
        }
        self.out.push_back(Output::Store { block, last });
        if let Some(loser) = loser {
            self.withdraw(now, loser, block, true);
            self.refill(now, loser);
        }
    }

    pub(super) fn refill_all(&mut self, now: Time) {
        let conns: Vec<ConnId> = self.sessions.keys().copied().collect();
        for conn in conns {
            self.refill(now, conn);
        }
    }

    pub(super) fn origin_is_spared(&mut self, now: Time) -> bool {
        let others =
            self.sessions.values().filter(|s| s.is_seed() && !s.hello.spreads && !s.pipeline.snubbed && !s.closing);
        let others = others.count();
        let rate = self.total_down.rate(now);
        self.spare.update(now, others, rate)
    }

    /// A peer owes blocks for too long: what it was asked for may be asked of others. It is not cancelled, as what it
    /// may still send is welcome until somebody else was faster.
    pub(super) fn snub(&mut self, now: Time, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let owed: Vec<Block> = session.pipeline.asked.iter().map(|a| a.block).collect();
        for block in owed {
            self.withdraw(now, conn, block, true);
        }
        self.release_piece(conn);
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.pipeline.snub(now);
        }
        self.refill_all(now);
    }
}
