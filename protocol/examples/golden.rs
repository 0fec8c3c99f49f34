//! Writes the golden vectors into `testdata/`: `cargo run -p shoal-protocol --example golden`.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, unreachable_pub, dead_code)]

#[path = "../tests/golden/mod.rs"]
mod golden;

fn main() -> std::io::Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for (path, bytes) in golden::files() {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, bytes)?;
    }
    println!("written to {}", root.display());
    Ok(())
}
