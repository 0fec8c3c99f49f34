//! When a peer is told to come back: soon while its swarm is young or short of peers, later when it is settled; but so that
//! a tracker that starts again with nothing knows its swarms within half a minute, as long as all of them together don't
//! send more than it can take with ease.
//!
//! Every answer is spread by 20 % either way, so that peers that came together don't return together. A large swarm is
//! never told to come back so soon that it alone would send more than about 1,000 announces a second.

use shoal_protocol::limits::INTERVAL_S;
use shoal_protocol::prng::Prng;

/// Below this age everything is still in motion: a flash crowd finds itself within seconds.
pub const YOUNG_S: u32 = 60;
/// Below this age newcomers are still likely.
const SETTLING_S: u32 = 300;
/// With fewer peers than this each newcomer matters to those who lack something.
const FEW: usize = 8;
/// The most announces a second that one swarm is asked for.
const ANNOUNCES_PER_S: usize = 1_000;
/// Seconds between two announces in a settled swarm: as few as serve the purpose, and as many as a full tracker needs.
const SETTLED_S: (u32, u32) = (25, 90);
/// The most announces a second that all settled swarms are asked for, up to the longer of those times: a tenth of what one
/// core answers.
const ANNOUNCES_PER_S_ALL: usize = 10_000;
/// Part of the time that the jitter adds or takes, in percent.
const JITTER_PERCENT: u64 = 20;

/// Seconds until the next announce, from the swarm's age and counts, and how many peers the tracker has in all. `fixed` is
/// the operator's wish for the base.
#[must_use]
pub fn interval_s(
    fixed: Option<u32>,
    age_s: u32,
    (seeds, leechers): (usize, usize),
    everybody: usize,
    rng: &mut Prng,
) -> u32 {
    let peers = seeds + leechers;
    let base = fixed.unwrap_or_else(|| {
        let wish = match (age_s, leechers) {
            (0..YOUNG_S, _) => 3,
            (_, 1..) | (0..SETTLING_S, _) if peers < FEW => 5,
            (0..SETTLING_S, _) => 20,
            _ => u32::try_from(everybody / ANNOUNCES_PER_S_ALL).unwrap_or(u32::MAX).clamp(SETTLED_S.0, SETTLED_S.1),
        };
        let floor = u32::try_from(peers / ANNOUNCES_PER_S).unwrap_or(u32::MAX);
        wish.max(floor)
    });
    let base_ms = u64::from(base.clamp(*INTERVAL_S.start(), *INTERVAL_S.end())) * 1000;
    let span = base_ms * 2 * JITTER_PERCENT / 100;
    let ms = base_ms - span / 2 + rng.below(span as usize + 1) as u64;
    (ms.saturating_add(500) / 1000).clamp((*INTERVAL_S.start()).into(), (*INTERVAL_S.end()).into()) as u32
}

/// How long a peer is believed after it was told to come back in `interval_s`: two announces may be lost.
#[must_use]
pub fn ttl_s(fixed: Option<u32>, interval_s: u32) -> u32 {
    const SLACK_S: u32 = 15;
    fixed.unwrap_or(interval_s.saturating_mul(5) / 2 + SLACK_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn young_and_small_swarms_return_soon_and_old_ones_later() {
        let mut rng = Prng::new(1);
        for _ in 0..500 {
            let mut within = |age_s, counts, everybody, expected: std::ops::RangeInclusive<u32>| {
                assert!(expected.contains(&interval_s(None, age_s, counts, everybody, &mut rng)), "{age_s} {counts:?}");
            };
            within(0, (1, 10), 11, 2..=4);
            within(10_000, (1, 2), 3, 4..=6);
            within(100, (1, 0), 1, 4..=6);
            within(100, (1, 200), 201, 16..=24);
            within(1, (0, 100_000), 100_000, 80..=120);
            for counts in [(10, 20), (10, 0)] {
                // Half a minute, and more where there are so many that it would cost.
                within(10_000, counts, 30, 20..=30);
                within(10_000, counts, 250_000, 20..=30);
                within(10_000, counts, 500_000, 40..=60);
                within(10_000, counts, 100_000_000, 72..=108);
                // Nobody can slow down who is in a hurry by filling other swarms.
                within(0, counts, 100_000_000, 2..=4);
            }
        }
    }

    #[test]
    fn jitter_fills_its_bounds_and_stays_within_them() {
        let mut rng = Prng::new(2);
        let got: Vec<_> = (0..5000).map(|_| interval_s(Some(100), 0, (0, 0), 0, &mut rng)).collect();
        assert_eq!((got.iter().min(), got.iter().max()), (Some(&80), Some(&120)));
        assert_eq!(interval_s(Some(0), 0, (0, 0), 0, &mut rng), 1);
        assert!(interval_s(Some(u32::MAX), 0, (0, 0), 0, &mut rng) <= 3600);
    }

    #[test]
    fn two_lost_announces_do_not_end_a_peer() {
        assert_eq!(ttl_s(None, 60), 165);
        assert_eq!(ttl_s(Some(7), 60), 7);
        assert!(ttl_s(None, u32::MAX) > 0);
    }
}
