//! Chaining values that are asked for and kept back.

use crate::siege::{HONEST, Siege, evil};
use shoal_peer::swarm::{ConnId, Input, Time};
use shoal_protocol::Message;
use shoal_protocol::tree::make_content_batch;

#[test]
fn who_owes_cvs_holds_up_nobody_for_long() {
    let mut siege = Siege::new(false);
    let liars: Vec<ConnId> = (0..24).map(|n| siege.connect(evil(n), true, true)).collect();
    let honest = siege.connect(HONEST, true, true);
    assert!(liars.iter().chain([&honest]).all(|conn| siege.stands(*conn)));
    let asked = |siege: &Siege, by: fn(&ConnId, ConnId) -> bool| {
        let cvs = siege.said.iter().filter(|(_, message)| matches!(message, Message::CvRequest { .. }));
        cvs.filter(|(conn, _)| by(conn, 25)).count()
    };
    assert_eq!(asked(&siege, |_, _| true), 1, "one, as long as nobody is late");
    while asked(&siege, |conn, honest| *conn == honest) == 0 {
        siege.wait_a_moment();
        assert!(siege.now < Time(3_000_000), "{} were asked", asked(&siege, |_, _| true));
    }
    assert_eq!(honest, 25);
}

#[test]
fn a_part_of_a_batch_is_a_fault_and_the_rest_is_asked_of_others() {
    let mut siege = Siege::new(false);
    let liar = siege.connect(evil(1), true, true);
    let honest = siege.connect(HONEST, true, true);
    let geometry = siege.content.manifest.geometry();
    // Right, and proven; any honest peer gives it out.
    let hashes = make_content_batch(geometry, &siege.content.cvs, 0, 1);
    assert!(siege.said.iter().any(|(conn, m)| *conn == liar && matches!(m, Message::CvRequest { .. })));
    siege.says(liar, Message::Cvs { first: 0, count: 1, hashes });
    assert!(!siege.stands(liar));
    let asked = |(conn, m): &(ConnId, Message)| *conn == honest && matches!(m, Message::CvRequest { .. });
    while !siege.said.iter().any(asked) {
        siege.wait_a_moment();
    }
}

#[test]
fn what_waits_for_cvs_is_bounded() {
    let mut siege = Siege::large();
    let liar = siege.connect(evil(1), true, true);
    let mut given = 0;
    // Less than the time in which it would be given up.
    for _ in 0..1_000 {
        siege.now = Time(siege.now.0 + 1_000);
        siege.feed(Input::Timeout);
        given += siege.answers_without_cvs(liar);
    }
    assert_eq!(given, 64 << 20, "bytes of who knows what");
}
