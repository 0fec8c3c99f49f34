//! The worlds: hosts, lines, what goes wrong, and the time that nothing can beat.

use harness::netns::{Line, PAYLOAD};

/// A swarm: who takes part, over which lines, and how fast it should be.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) size: u64,
    pub(crate) origin: Line,
    /// Those who fetch.
    pub(crate) peers: Vec<Line>,
    /// The last so many of them stand behind a link of so many Mbit/s.
    pub(crate) behind: Option<(usize, f64)>,
    /// Whether everybody says on which side of that link it is; else subnets tell.
    pub(crate) labels: bool,
    /// Packets in a hundred that each host loses of what reaches it.
    pub(crate) loss: u32,
    /// The last so many join when the others have half.
    pub(crate) late: usize,
    /// One with a slow downlink, who is judged by his own.
    pub(crate) slow: Option<usize>,
    /// The last one's time by the bound.
    pub(crate) goal: f64,
}

fn line(up: f64, down: f64) -> Line {
    Line { up, down }
}

/// Payload bytes per second of a rate in Mbit/s.
pub(crate) fn payload(mbit: f64) -> f64 {
    mbit * 125_000.0 * PAYLOAD
}

pub(crate) fn all() -> Vec<World> {
    let star = |name, about, count, goal| World {
        name,
        about,
        size: 128 << 20,
        origin: line(40.0, 400.0),
        peers: vec![line(40.0, 400.0); count],
        behind: None,
        labels: true,
        loss: 0,
        late: 0,
        slow: None,
        goal,
    };
    let ups = [5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 100.0, 40.0];
    let down = |host| if host == 11 { 20.0 } else { 400.0 };
    vec![
        star("star8", "8 peers, lines of 40 up and 400 down", 8, 1.05),
        star("star16", "16 peers, lines of 40 up and 400 down", 16, 1.06),
        World { origin: line(200.0, 400.0), ..star("fast-origin", "star8 with an origin of 200 up", 8, 1.10) },
        World { peers: vec![line(20.0, 400.0); 8], ..star("all-uplinks", "star8 with peers of 20 up", 8, 1.12) },
        World {
            peers: (0..12).map(|host| line(ups[host], down(host))).collect(),
            slow: Some(11),
            ..star("mixed", "12 peers of 5 to 100 up, one of them of 20 down", 12, 1.10)
        },
        World { late: 3, ..star("late", "9 peers, 3 of which join when the others have half", 9, 1.10) },
        World { loss: 3, ..star("loss", "star8, each host loses 3 % of what reaches it", 8, 1.25) },
        World { size: 4 << 20, ..star("small", "4 MiB to 16 peers, with all start-up", 16, 2.0) },
        World { behind: Some((6, 20.0)), ..star("zones", "6 peers here, 6 behind a link of 20", 12, 1.15) },
        World {
            behind: Some((6, 20.0)),
            labels: false,
            ..star("subnets", "zones without labels: the two sides are two subnets", 12, 1.15)
        },
    ]
}

/// What a world's time is measured against.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    pub(crate) of: &'static str,
    /// Those whose last one it holds for, counted from 1; the origin is host 0.
    pub(crate) hosts: Vec<usize>,
    pub(crate) seconds: f64,
}

impl World {
    /// `max{F/u_s, F/d_min, N·F/(u_s + Σu_i)}` on payload bytes, and what a thin link and losses add.
    pub(crate) fn bounds(&self) -> Vec<Bound> {
        let size = self.size as f64;
        let hosts: Vec<usize> = (1..=self.peers.len()).filter(|host| self.slow != Some(host - 1)).collect();
        let lines: Vec<Line> = hosts.iter().map(|host| self.peers[host - 1]).collect();
        let ups = |lines: &[Line]| lines.iter().map(|line| payload(line.up)).sum::<f64>();
        let down = lines.iter().map(|line| payload(line.down)).fold(f64::INFINITY, f64::min);
        let origin = payload(self.origin.up);
        let mut seconds = (size / origin).max(size / down).max(lines.len() as f64 * size / (origin + ups(&lines)));
        if let Some((count, thin)) = self.behind {
            let far = ups(&self.peers[self.peers.len() - count..]);
            seconds = seconds.max(size / payload(thin)).max(count as f64 * size / (payload(thin) + far));
        }
        let most = Bound { of: "last", hosts, seconds: seconds / (1.0 - f64::from(self.loss) / 100.0) };
        let slow = self.slow.map(|slow| Bound {
            of: "slow one",
            hosts: vec![slow + 1],
            seconds: size / payload(self.peers[slow].down),
        });
        std::iter::once(most).chain(slow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_formula() {
        let bound = |name: &str| {
            let world = all().into_iter().find(|world| world.name == name).unwrap();
            world.bounds().iter().map(|bound| (bound.seconds * 100.0).round() / 100.0).collect::<Vec<_>>()
        };
        assert_eq!(bound("star8"), [28.05]);
        assert_eq!(bound("star16"), [28.05]);
        assert_eq!(bound("fast-origin"), [17.26]);
        assert_eq!(bound("all-uplinks"), [44.88]);
        assert_eq!(bound("mixed"), [28.05, 56.1]);
        assert_eq!(bound("loss"), [28.92]);
        assert_eq!(bound("zones"), [56.1]);
        assert_eq!(bound("subnets"), [56.1]);
    }
}
