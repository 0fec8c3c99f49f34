//! Real programs on real kernels' networks: hosts in namespaces, with lines that are slow, lossy or cut.
//!
//! Needs root and the tools that [`harness::netns`] names; without them each test says so and passes.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod weather;

use harness::netns::{self, Family, Line, Net, PAYLOAD, Peers, Process};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Several times what any of these worlds needs.
const PATIENCE: Duration = Duration::from_secs(60);
const LINE: Line = Line { up: 40.0, down: 200.0 };
const MIB: u64 = 1 << 20;

/// The peer, if nets can be made here.
fn peer(tools: &[&str]) -> Option<&'static Path> {
    static PEER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(reason) = netns::lacking(tools) {
        skipped(&reason);
        return None;
    }
    Some(PEER.get_or_init(|| netns::peer().unwrap()))
}

/// Goes past the test runner, which hides what passing tests print.
fn skipped(why: &str) {
    writeln!(std::io::stderr().lock(), "skipped: {why}").unwrap();
}

struct Transfer<'a> {
    peers: Peers<'a>,
    content: PathBuf,
    size: u64,
    seed: Process,
    fetches: Vec<Process>,
    start: Instant,
}

impl<'a> Transfer<'a> {
    /// Host 0 seeds, all others fetch; `words` are more words for the peer of a host.
    fn start(net: &'a Net, program: &'a Path, dir: &'a Path, size: u64, words: impl Fn(usize) -> Vec<&'a str>) -> Self {
        let peers = Peers { net, program, dir };
        let content = dir.join("content");
        netns::write_content(&content, 1, size).unwrap();
        let (seed, link) = peers.seed(0, &content, &words(0)).unwrap();
        let start = Instant::now();
        let fetches = (1..net.hosts()).map(|host| peers.fetch(host, &link, &words(host)).unwrap()).collect();
        Self { peers, content, size, seed, fetches, start }
    }

    /// Waits until every host has a copy.
    fn wait(&self) {
        for host in 1..=self.fetches.len() {
            while !self.peers.copy(host).exists() && self.start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Waits until every host has every byte; gives how many copies the seed has sent.
    fn finish(mut self) -> f64 {
        for host in 1..=self.fetches.len() {
            while !self.peers.copy(host).exists() {
                let said = || std::fs::read_to_string(self.peers.dir.join(format!("peer{host}.err")));
                assert!(!self.fetches[host - 1].ended(), "host {host} gave up: {:?}", said());
                assert!(self.start.elapsed() < PATIENCE, "host {host} hangs: {:?}", self.peers.last(host, "progress"));
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(netns::same(&self.content, &self.peers.copy(host)).unwrap(), "host {host} has other bytes");
        }
        self.seed.interrupt().unwrap();
        let result = self.peers.last(0, "result").unwrap();
        result["sent"].as_f64().unwrap() / self.size as f64
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("shoal-netns-").tempdir_in(netns::memory()).unwrap()
}

#[test]
fn a_star_gets_the_content_for_little_more_than_one_copy_of_the_seeds_uplink() {
    let Some(peer) = peer(&[]) else { return };
    let (net, dir) = (Net::star(&[LINE; 5], Family::V4).unwrap(), dir());
    let copies = Transfer::start(&net, peer, dir.path(), 16 * MIB, |_| vec![]).finish();
    assert!(copies <= 1.5, "the seed sent {copies} copies");
}

#[test]
fn hosts_without_ipv4_exchange_over_ipv6() {
    let Some(peer) = peer(&[]) else { return };
    let (net, dir) = (Net::star(&[LINE; 3], Family::V6).unwrap(), dir());
    let copies = Transfer::start(&net, peer, dir.path(), 8 * MIB, |_| vec![]).finish();
    assert!(copies <= 1.7, "the seed sent {copies} copies, so the two did not find each other");
}

#[test]
fn a_zone_behind_a_thin_link_gets_everything_about_once() {
    let Some(peer) = peer(&[]) else { return };
    let (near, far) = ([LINE; 3], [LINE; 2]);
    let (net, dir) = (Net::zones(&[&near, &far], 15.0, Family::V4).unwrap(), dir());
    let zone = |host| vec!["--zone", if host < 3 { "near" } else { "far" }];
    let crossed = net.crossed(1).unwrap();
    Transfer::start(&net, peer, dir.path(), 8 * MIB, zone).finish();
    let copies = (net.crossed(1).unwrap() - crossed) as f64 * PAYLOAD / (8 * MIB) as f64;
    assert!(copies < 1.3, "{copies} copies crossed the link");
}

#[test]
fn without_labels_a_subnet_behind_a_thin_link_gets_everything_about_once() {
    let Some(peer) = peer(&[]) else { return };
    let (near, far) = ([LINE; 3], [LINE; 3]);
    let (net, dir) = (Net::zones(&[&near, &far], 15.0, Family::V4).unwrap(), dir());
    let crossed = net.crossed(1).unwrap();
    Transfer::start(&net, peer, dir.path(), 8 * MIB, |_| vec![]).finish();
    let copies = (net.crossed(1).unwrap() - crossed) as f64 * PAYLOAD / (8 * MIB) as f64;
    assert!(copies < 1.3, "{copies} copies crossed the link");
}

#[test]
fn three_of_a_hundred_packets_may_be_lost() {
    let Some(peer) = peer(&["nft"]) else { return };
    let (net, dir) = (Net::star(&[LINE; 4], Family::V4).unwrap(), dir());
    for host in 0..net.hosts() {
        net.lose(host, 3).unwrap();
    }
    Transfer::start(&net, peer, dir.path(), 8 * MIB, |_| vec![]).finish();
}

#[test]
fn a_cable_may_be_out_for_five_seconds() {
    let Some(peer) = peer(&[]) else { return };
    let (net, dir) = (Net::star(&[Line { up: 20.0, down: 200.0 }; 3], Family::V4).unwrap(), dir());
    let transfer = Transfer::start(&net, peer, dir.path(), 8 * MIB, |_| vec![]);
    // The seed's, when there is no other source yet and much is under way.
    std::thread::sleep(Duration::from_millis(1_500));
    net.plug(0, false).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert!((1..net.hosts()).all(|host| !transfer.peers.copy(host).exists()), "it was over before the cable was out");
    net.plug(0, true).unwrap();
    transfer.finish();
}

#[test]
fn a_net_goes_with_a_panic_and_so_does_what_runs_in_it() {
    if peer(&[]).is_none() {
        return;
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let net = Net::star(&[LINE; 2], Family::V4).unwrap();
        let child = net.command(0, "sleep").arg("60").spawn().unwrap();
        sender.send((format!("{net:?}"), child)).unwrap();
        panic!("as it is meant to");
    });
    assert!(thread.join().is_err());
    let (net, mut child) = receiver.recv().unwrap();
    assert!(!child.wait().unwrap().success(), "the program was left alone");
    let listed = std::process::Command::new("ip").args(["netns", "list"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    assert!(names.into_iter().all(|name| !net.contains(name)), "left behind: {listed}");
}
