//! `docre train`

use super::output::print;
use super::progress::{Progress, show_profile};
use super::setup::{DeviceArgs, bytes};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::text::say;
use crate::train::{Config, End, Run, Watch, step::Report};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Train a model from annotated documents.
///
/// The configuration is a TOML file with the sections [data], [model], [objective], [schedule] and
/// [output]; any value can be set with -s section.key=value. The run directory holds checkpoints to go on
/// from, best/, a model directory for `docre extract -m`, index.html with the curves of the run (renewed at
/// each evaluation), train.jsonl with the figures of each update, and event files for TensorBoard. SIGINT and
/// SIGTERM save a checkpoint and end the run.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  docre train examples/train-demo.toml --out runs/demo
  docre train examples/train-demo.toml --out runs/demo --resume auto
  docre train examples/train-demo.toml -s schedule.epochs=2 -s schedule.batch=2 --out runs/short
  docre train examples/train-demo.toml --dry-run")]
pub struct TrainArgs {
    /// The configuration file.
    config: PathBuf,
    /// Set a value of the configuration: section.key=value.
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run directory.
    #[arg(long, default_value = "runs/train")]
    out: PathBuf,
    /// auto: go on from the newest complete checkpoint in the run directory, if there is one.
    #[arg(long, value_parser = ["auto", "never"], default_value = "never")]
    resume: String,
    /// Show steps, documents and memory, and train nothing.
    #[arg(long)]
    dry_run: bool,
    /// Show the configuration with all defaults, and train nothing.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    common: CommonArgs,
}

/// What every command that trains takes.
#[derive(clap::Args)]
pub struct CommonArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Most memory for tensors, e.g. 2GiB; past it the run ends and says who holds what.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_memory: Option<usize>,
    /// At the end, show where the time went, by op.
    #[arg(long)]
    pub profile: bool,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

impl CommonArgs {
    pub fn open(&self) -> Result<Device> {
        let device = self.device.open_to_train()?;
        device.ledger().set_limit(self.max_memory);
        Ok(device)
    }
}

pub fn run(args: &TrainArgs) -> Result<u8> {
    let config = Config::load(&args.config, &args.set)?;
    if args.print_config {
        print(config.resolved()?)?;
        return Ok(0);
    }
    let device = args.common.open()?;
    let mut screen = Screen::new(args.common.quiet);
    let mut run = Run::open(config, &args.out, args.resume == "auto", &device, &mut screen)?;
    if args.dry_run {
        say(plan(&run));
        return Ok(0);
    }
    let stop = stop_signal()?;
    let end = run.train(&|| stop.load(Ordering::Relaxed), &mut screen)?;
    screen.finish();
    let best = run
        .progress
        .best_f1
        .map_or(String::new(), |f1| format!(", best F1 {f1:.2} after update {}", run.progress.best_update));
    let out = args.out.display();
    match end {
        End::Finished => screen.message(&format!("finished{best}: {out}/best")),
        End::Patience => screen.message(&format!("stopped: no better F1 for a while{best}: {out}/best")),
        End::Interrupted => screen.message(&format!("interrupted; go on with --resume auto --out {out}")),
    }
    if args.common.profile {
        show_profile(&device);
    }
    Ok(0)
}

fn plan(run: &Run) -> String {
    let (train, dev) = run.documents();
    let weights = run.trainer.model.params.len();
    format!(
        "{train} training and {dev} development documents, {} epochs of {} updates; {:.1} M parameters, {} MiB for weights, gradients and moments",
        run.config.schedule.epochs,
        run.updates_an_epoch(),
        weights as f64 / 1e6,
        (4 * 4 * weights) >> 20,
    )
}

/// Set by the first SIGINT or SIGTERM; a second one ends the process at once.
pub fn stop_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let failed = |e: std::io::Error| Error::io("signals", e);
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone()).map_err(failed)?;
        signal_hook::flag::register(signal, stop.clone()).map_err(failed)?;
    }
    Ok(stop)
}

/// `1 h 05 min`, `5 min`, `40 s`.
fn duration(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        s @ ..60 => format!("{s} s"),
        s @ ..3600 => format!("{} min", s.div_ceil(60)),
        s => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

pub struct Screen {
    progress: Progress,
    quiet: bool,
    /// The loss, smoothed over about fifty updates.
    smooth: Option<f64>,
}

impl Screen {
    pub fn new(quiet: bool) -> Self {
        Screen { progress: Progress::new(None, quiet), quiet, smooth: None }
    }
    pub fn finish(&self) {
        self.progress.finish();
    }
    fn restart(&mut self, length: usize) {
        self.progress.finish();
        self.progress = Progress::new(Some(length as u64), self.quiet);
    }
}

impl Watch for Screen {
    fn begin(&mut self, run: &Run) {
        self.restart(run.trainer.total as usize);
        self.smooth = None;
        self.message(&plan(run));
    }
    fn logits(&mut self, done: usize, documents: usize) {
        if done == 0 {
            self.restart(documents);
        }
        self.progress.set(done as u64, || "documents".into());
    }
    fn update(&mut self, run: &Run, report: &Report) {
        if report.bad.is_none() {
            self.smooth = Some(self.smooth.map_or(report.loss, |s| s + 0.02 * (report.loss - s)));
        }
        let (seconds, updates) = run.pace();
        let documents = updates as f64 * (run.config.schedule.batch * run.config.schedule.accumulate) as f64;
        let (smooth, total) = (self.smooth.unwrap_or(f64::NAN), run.trainer.total);
        self.progress.set(run.progress.tried, || {
            let left = seconds / updates.max(1) as f64 * total.saturating_sub(run.progress.tried) as f64;
            let evidence = report.evidence.map_or(String::new(), |loss| format!(" evidence {loss:.3}"));
            format!(
                "epoch {} loss {smooth:.4}{evidence} norm {:.2} {:.2} documents/s {:.0} MiB, {} left",
                run.progress.epoch + 1,
                report.norm,
                documents / seconds,
                run.memory_mib(),
                duration(left)
            )
        });
    }
    fn evaluated(&mut self, run: &Run, f1: f64, best: bool) {
        let mark = if best { " (best)" } else { "" };
        self.progress.line(&format!("update {}: development F1 {f1:.2}{mark}", run.progress.tried));
    }
    fn message(&mut self, text: &str) {
        self.progress.line(text);
    }
}
