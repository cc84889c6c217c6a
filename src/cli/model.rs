//! `docre model inspect | verify | convert`

use super::output::print;
use crate::checkpoint::directory::{MANIFEST, hash_file, save_directory, verify as verify_manifest};
use crate::checkpoint::{Checkpoint, LoadReport, Loader, Stored, Want, open_model, save_model};
use crate::data::{Relations, Tokenizer};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::extract::Extractor;
use crate::model::config::{Architecture, ModelConfig};
use crate::model::names::{Group, parameter_table};
use crate::text::{one_line, say, shape_name};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Look at, check or convert a model directory
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre model inspect runs/demo/best
  docre model verify runs/demo/best
  docre model convert runs/demo/best weights/demo --dtype bf16")]
pub struct ModelCommand {
    #[command(subcommand)]
    command: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    Inspect(InspectArgs),
    Verify(VerifyArgs),
    Convert(ConvertArgs),
}

/// Show architecture, sizes, tensors and relations, without loading the weights
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre model inspect runs/demo/best
  docre model inspect runs/demo/best --tensors
  docre model inspect model.safetensors --json | jq .tensors")]
struct InspectArgs {
    /// Model directory, or a file of weights
    path: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Write one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Check a model directory: manifest, every weight, tokenizer, relations
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre model verify runs/demo/best
  docre model verify weights/demo && echo usable

Exit codes: 0 usable, 4 not usable, 6 a file cannot be read, 7 a number that is not finite")]
struct VerifyArgs {
    /// Model directory
    dir: PathBuf,
    /// Nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Write a model directory anew, with weights of another width
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre model convert runs/demo/best weights/demo --dtype bf16
  docre model convert weights/demo wide --dtype f32

The directory appears whole or not at all. README.md, NOTICE and LICENSE of the source are copied;
without them, those of the destination stay.")]
struct ConvertArgs {
    source: PathBuf,
    destination: PathBuf,
    /// Width of the weights in the file; what docre computes in is the device's own choice, or --precision
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Width,
    /// Nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Width {
    F32,
    /// Half the size; each weight is rounded to the nearest of 8 significant bits
    Bf16,
}

pub fn run(args: &ModelCommand) -> Result<u8> {
    match &args.command {
        Action::Inspect(args) => inspect(args),
        Action::Verify(args) => verify(args),
        Action::Convert(args) => convert(args),
    }
}

fn inspect(args: &InspectArgs) -> Result<u8> {
    let checkpoint = Checkpoint::open(&args.path)?;
    let mut found = weights(&checkpoint, args.tensors)?;
    if args.path.is_dir() {
        let config = ModelConfig::load(&args.path)?;
        let named = args.path.join("relations.json").exists();
        let relations = named.then(|| Relations::of_model(&args.path)).transpose()?;
        describe(&mut found, &config, &checkpoint, relations.as_ref())?;
    }
    let text = if args.json { format!("{found:#}\n") } else { as_text(&found) };
    print(text)?;
    Ok(0)
}

/// What a file of weights says by itself.
fn weights(checkpoint: &Checkpoint, list: bool) -> Result<Value> {
    let infos = || checkpoint.names().filter_map(|name| Some((name, checkpoint.info(name)?)));
    let mut types: BTreeMap<&str, u64> = BTreeMap::new();
    infos().for_each(|(_, info)| *types.entry(info.stored.name()).or_default() += info.elements() as u64);
    let mut files = serde_json::Map::new();
    for path in checkpoint.files() {
        files.insert(path.display().to_string(), json!(format!("sha256:{}", hash_file(path)?)));
    }
    let mut found = json!({
        "files": files,
        "tensors": infos().count(),
        "bytes": infos().map(|(_, info)| info.bytes).sum::<u64>(),
        "elements_by_dtype": types,
        "metadata": checkpoint.metadata(),
    });
    if list {
        let one = |(name, info): (&str, &crate::checkpoint::TensorInfo)| json!({"name": name, "dtype": info.stored.name(), "shape": info.shape});
        found["tensor_list"] = infos().map(one).collect();
    }
    Ok(found)
}

/// What the configuration makes of it.
fn describe(
    found: &mut Value,
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    relations: Option<&Relations>,
) -> Result<()> {
    let table = parameter_table(config);
    let report: LoadReport = Loader::check(checkpoint, &table, Want::Everything)?.report().clone();
    let count = |group| table.iter().filter(|p| p.group == group).map(|p| p.elements()).sum::<usize>();
    let (encoder, axial, head) = (count(Group::Encoder), count(Group::Axial), count(Group::Head));
    let total = encoder + axial + head;
    found["parameters"] = json!({"total": total, "encoder": encoder, "axial": axial, "head": head});
    let e = &config.encoder;
    found["encoder"] = json!({
        "type": e.kind.name(), "layers": e.num_hidden_layers, "hidden": e.hidden_size, "heads": e.num_attention_heads,
        "intermediate": e.intermediate_size, "vocabulary": e.vocab_size, "window": e.window(),
    });
    found["head"] = config.head.as_ref().map_or(Value::Null, |h| {
        let architecture = if h.architecture == Architecture::Atlop { "atlop" } else { "kd-docre" };
        json!({
            "architecture": architecture, "extractor": h.extractor_size, "block": h.block_size,
            "axial_layers": h.axial_layers, "axial_heads": h.axial_heads, "pad_entities": h.pad_entities,
            "classes": h.classes, "top_k": h.top_k,
        })
    });
    found["load"] = json!({"used": report.used.len(), "unused": report.unused, "missing": report.missing});
    let named = |r: &Relations| (1..r.len()).map(|i| json!({"r": r.code(i), "name": r.name(i)})).collect();
    found["relations"] = match relations {
        Some(relations) => named(relations),
        None => config.labels.iter().skip(1).map(|code| json!({"r": code})).collect(),
    };
    Ok(())
}

/// Relations shown as text; JSON has all.
const SHOWN: usize = 12;

fn as_text(found: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12} {value}"); // into a String: never fails
    };
    for (file, hash) in found["files"].as_object().into_iter().flatten() {
        line("file", format!("{} {}", one_line(file), plain(hash)));
    }
    if let Some(parameters) = found.get("parameters") {
        let encoder = found["encoder"].as_object();
        line("encoder", encoder.map_or(String::new(), pairs));
        line(
            "head",
            found["head"].as_object().map_or("none: a plain encoder; train a head with `docre train`".into(), pairs),
        );
        line("parameters", parameters.as_object().map_or(String::new(), pairs));
    }
    let mib = found["bytes"].as_u64().unwrap_or(0) as f64 / (1 << 20) as f64;
    let types = found["elements_by_dtype"].as_object().map_or(String::new(), pairs);
    line("weights", format!("{} tensors, {mib:.1} MiB, elements {types}", found["tensors"]));
    if let Some(load) = found.get("load") {
        let some = |key: &str| load[key].as_array().map_or(0, Vec::len);
        line("tensors", format!("{} used, {} unused, {} missing", load["used"], some("unused"), some("missing")));
        for name in load["unused"].as_array().into_iter().flatten() {
            line("  unused", one_line(&plain(name)));
        }
    }
    if let Some(relations) = found.get("relations").and_then(Value::as_array).filter(|r| !r.is_empty()) {
        let name = |r: &Value| match r["name"].as_str() {
            Some(name) => format!("{} {}", plain(&r["r"]), name),
            None => plain(&r["r"]),
        };
        let first: Vec<String> = relations.iter().take(SHOWN).map(name).collect();
        let more = if relations.len() > SHOWN { ", … (--json lists all)" } else { "" };
        line("relations", format!("{}: {}{more}", relations.len(), one_line_each(&first)));
    }
    for tensor in found.get("tensor_list").and_then(Value::as_array).into_iter().flatten() {
        let shape: Vec<usize> = tensor["shape"].as_array().into_iter().flatten().filter_map(as_size).collect();
        line(
            "  tensor",
            format!("{:<60} {:<5} {}", plain(&tensor["name"]), plain(&tensor["dtype"]), shape_name(&shape)),
        );
    }
    out
}

fn as_size(value: &Value) -> Option<usize> {
    value.as_u64().map(|n| n as usize)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn pairs(map: &serde_json::Map<String, Value>) -> String {
    map.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect::<Vec<_>>().join(", ")
}

fn one_line_each(names: &[String]) -> String {
    names.iter().map(|name| one_line(name)).collect::<Vec<_>>().join(", ")
}

fn verify(args: &VerifyArgs) -> Result<u8> {
    let ok = |what: String| if args.quiet { Ok(()) } else { print(format_args!("ok  {what}\n")) };
    if args.dir.join(MANIFEST).exists() {
        ok(format!("manifest: {} files as they were written", verify_manifest(&args.dir)?.len()))?;
    }
    let device = Device::cpu(0)?;
    if ModelConfig::load(&args.dir)?.head.is_none() {
        let what = format!("{}: a plain encoder, without a head for relations", args.dir.display());
        return Err(Error::model("E-WEIGHTS", what).fix("train a head with `docre train`"));
    }
    let extractor = Extractor::open(&args.dir, &device)?;
    ok(format!("weights: {} values, all finite; {}", extractor.model.params.len(), extractor.digest))?;
    let (pieces, rows) = (extractor.tokenizer.ids(), extractor.model.config.encoder.vocab_size);
    if pieces > rows {
        let what = format!("{}: tokenizer.json has {pieces} pieces, the encoder {rows}", args.dir.display());
        return Err(Error::model("E-VOCAB", what).fix("tokenizer.json and config.json must belong together"));
    }
    ok(format!("tokenizer: {pieces} pieces, the encoder has {rows}"))?;
    ok(format!("relations: {}", extractor.relations.len() - 1))?;
    extractor.extract(&[trial()?])?;
    ok("a trial document: finite logits".into())?;
    Ok(0)
}

/// Two entities in one sentence.
fn trial() -> Result<crate::data::Document> {
    let json = r#"{"text":"Ada was born in London.","entities":[{"mentions":[{"start":0,"end":3}]},{"mentions":[{"start":16,"end":22}]}]}"#;
    crate::data::jsonl::parse(json.as_bytes(), 0, crate::data::Unit::Char)
}

/// Copied as they are, from the source or else from the destination.
const PROSE: [&str; 3] = ["README.md", "NOTICE", "LICENSE"];
/// Whatever else a destination holds is not ours to remove.
const OURS: [&str; 6] =
    ["config.json", "model.safetensors", "tokenizer.json", "relations.json", "calibration.json", MANIFEST];

fn convert(args: &ConvertArgs) -> Result<u8> {
    let (source, destination) = (&args.source, &args.destination);
    refuse_strange(destination)?;
    let device = Device::cpu(0)?;
    let (model, report) = open_model::<f32>(source, &device)?;
    Tokenizer::open(source)?;
    let stored = if args.dtype == Width::F32 { Stored::F32 } else { Stored::BF16 };
    save_directory(destination, |staging| {
        save_model(staging, &model, stored)?;
        for name in ["tokenizer.json", "relations.json", "calibration.json"].iter().chain(&PROSE) {
            let places = [source, destination];
            let among = if PROSE.contains(name) { &places[..] } else { &places[..1] };
            let found = among.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
            if let Some(path) = found {
                staging.write(name, &std::fs::read(&path).map_err(|e| Error::io(&path, e))?)?;
            }
        }
        Ok(())
    })?;
    if !args.quiet {
        let (place, weights) = (destination.display(), model.params.len());
        say(format_args!("{place}: {weights} weights as {}; {report}", stored.name()));
    }
    Ok(0)
}

/// The destination is replaced as a whole: only a model directory, or nothing, may stand there.
fn refuse_strange(destination: &Path) -> Result<()> {
    if destination.is_file() {
        return Err(Error::usage(format!("{} is a file", destination.display())).fix("name a directory"));
    }
    let Ok(entries) = std::fs::read_dir(destination) else { return Ok(()) };
    for entry in entries {
        let name = entry.map_err(|e| Error::io(destination, e))?.file_name();
        let known = name.to_str().is_some_and(|name| OURS.contains(&name) || PROSE.contains(&name));
        if !known {
            let what =
                format!("{} holds {}, which would be lost", destination.display(), one_line(&name.to_string_lossy()));
            return Err(Error::usage(what).fix("name a new directory, or one of a model"));
        }
    }
    Ok(())
}
