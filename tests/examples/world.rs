//! Plays one star and prints what came of it: `cargo run -p harness --example world -- --fetchers 8 --up 40 --down 400`.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use harness::{World, mbit};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: f64| -> f64 {
        let at = args.iter().position(|a| a == name);
        at.and_then(|at| args.get(at + 1)).and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let seeds = number("--seeds", 1.0) as u64;
    for seed in 0..seeds {
        let (up, down) = (mbit(number("--up", 40.0)), mbit(number("--down", 400.0)));
        let world = World::new(number("--seed", 1.0) as u64 + seed)
            .pieces(number("--pieces", 2048.0) as u32)
            .piece_size(number("--piece-kib", 64.0) as u32 * 1024)
            .latency_ms(number("--latency-ms", 1.0))
            .control_delay_ms(number("--control-ms", 50.0))
            .max_peers(number("--max-peers", 64.0) as usize)
            .origin(mbit(number("--origin-up", number("--up", 40.0))), down)
            .fetchers(number("--fetchers", 8.0) as usize, up, down);
        let began = std::time::Instant::now();
        let report = world.run();
        println!("{report}; {:.1} s of computing", began.elapsed().as_secs_f64());
    }
}
