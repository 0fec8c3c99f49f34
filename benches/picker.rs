//! What choosing pieces costs: `cargo bench -p benches --bench picker`.

use benches::measure;
use shoal_peer::swarm::picker::Picker;
use shoal_protocol::Bitfield;
use shoal_protocol::prng::Prng;

fn main() {
    for pieces in [2_048_u32, 65_536] {
        let mut rng = Prng::new(1);
        let mut picker = Picker::new(&Bitfield::none(pieces), &mut rng);
        let all = Bitfield::all(pieces);
        // Each piece is held by a few of 50 leechers, as in the middle of a transfer.
        (0..pieces * 10).for_each(|_| picker.increment(rng.below(pieces as usize) as u32));
        measure(&format!("picker: have, {pieces} pieces"), "haves", f64::from(pieces) * 2.0, || {
            for _ in 0..pieces {
                let piece = rng.below(pieces as usize) as u32;
                picker.increment(piece);
                picker.decrement(piece);
            }
        });
        measure(&format!("picker: pick and take, {pieces} pieces"), "picks", f64::from(pieces), || {
            let mut taken = Vec::with_capacity(pieces as usize);
            while let Some(piece) = picker.pick(&mut rng, false, &all, |_| true) {
                picker.remove(piece);
                taken.push(piece);
            }
            assert_eq!(taken.len(), pieces as usize);
            taken.into_iter().for_each(|piece| picker.insert(piece));
        });
    }
}
