//! What an announce costs the tracker without its sockets, on one core: `cargo bench -p benches --bench announce`.

use benches::announces::tell;
use benches::measure;
use harness::open_tracker::open_tracker;
use shoal_protocol::announce::Event;

/// As in the comparisons of trackers that the README tells of.
const SWARMS: u32 = 1_000;
const PEERS: u32 = 20_000;
const WANT: u16 = 50;

fn main() {
    let service = open_tracker();
    for peer in 0..PEERS {
        assert!(tell(&service, peer, SWARMS, Event::Started, WANT).is_ok());
    }
    let mut peer = 0;
    measure("announce: 20,000 peers, 1,000 swarms", "announces", 1.0, || {
        peer = (peer + 7_919) % PEERS;
        tell(&service, peer, SWARMS, Event::Progress, WANT)
    });
}
