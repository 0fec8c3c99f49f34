//! `peer demo`.

use super::Context;
use super::args::DemoArgs;
use super::output::Outcome;
use crate::failure::{Failure, FailureKind};

pub(super) async fn run(_: DemoArgs, _: Context) -> Result<Outcome, Failure> {
    Err(Failure::new(FailureKind::Bug, "not there yet"))
}
