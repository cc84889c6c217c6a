//! `docre distill`

use super::output::print;
use super::progress::show_profile;
use super::train::{CommonArgs, Screen, stop_signal};
use crate::distill::plan::Plan;
use crate::distill::{Config, Pipeline, Stage};
use crate::error::Result;
use crate::text::say;
use crate::train::{End, Watch};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Train a teacher, and from its logits over more documents a student
///
/// Four stages, each with a table in the configuration: [teacher] learns from annotated documents, [logits] stores what
/// it says of others, [student] learns from those, with their labels or the teacher's, and [finetune] ends on the
/// annotated ones. The sections of `docre train` at the top hold for all of them, [student.schedule] and the like for
/// one. Memory does not grow with the data, but for 48 bytes a document. The run goes on where it was cut, however it was.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  docre distill examples/distill-demo.toml --out runs/distilled --dry-run
  docre distill examples/distill-demo.toml --out runs/distilled
  docre distill examples/distill-demo.toml --out runs/distilled --only logits
  docre distill examples/distill-demo.toml -s student.schedule.epochs=4 --out runs/short")]
pub struct DistillArgs {
    /// The configuration file
    config: PathBuf,
    /// Set a value of the configuration: stage.section.key=value, or section.key=value for the stages
    /// that have no value of their own
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The directory of all stages
    #[arg(long, default_value = "runs/distill")]
    out: PathBuf,
    /// Run one stage; those before it must be done
    #[arg(long, value_enum)]
    only: Option<Stage>,
    /// Show documents, updates, disk and an estimate of the time, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Show what each stage would run with, and do nothing
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    common: CommonArgs,
}

pub fn run(args: &DistillArgs) -> Result<u8> {
    let config = Config::load(&args.config, &args.set, &args.out)?;
    if args.print_config {
        print(config.resolved()?)?;
        return Ok(0);
    }
    let device = args.common.open()?;
    let pipeline = Pipeline { config, dir: args.out.clone(), device };
    let mut screen = Screen::new(args.common.quiet);
    if args.dry_run || !args.common.quiet {
        say(Plan::new(&pipeline, true)?.to_string().trim_end());
    }
    if args.dry_run {
        return Ok(0);
    }
    let stop = stop_signal()?;
    let end = pipeline.run(args.only, &|| stop.load(Ordering::Relaxed), &mut screen)?;
    screen.finish();
    match (end, args.only) {
        (End::Interrupted, _) => screen.message("interrupted; the same command goes on"),
        (_, Some(stage)) => screen.message(&format!("{} is done: {}", stage.name(), pipeline.path(stage).display())),
        (_, None) => screen.message(&format!("finished: {}", pipeline.result().display())),
    }
    if args.common.profile {
        show_profile(&pipeline.device);
    }
    Ok(0)
}
