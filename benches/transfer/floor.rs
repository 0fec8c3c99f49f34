//! The floor program beside this one: what a transfer costs when nothing is left that could be left out.

use crate::{Result, Source, System};
use benches::cost::{Cost, Whole, count, run};
use benches::program;
use std::path::PathBuf;
use std::process::Command;

/// Both ends are one process, so all of its time counts as the receiver's.
pub(crate) struct Floor(PathBuf);

impl Floor {
    /// Finds or builds the program.
    pub(crate) fn find() -> Result<Self> {
        program("floor", "benches").map(Self)
    }
}

impl System for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn run(&mut self, source: &Source, targets: &[PathBuf]) -> Result<Cost> {
        count(&[], || {
            let mut command = Command::new(&self.0);
            command.arg(&source.path).args(targets);
            run(std::iter::once(command), Whole::AtEnd)
        })
    }
}
