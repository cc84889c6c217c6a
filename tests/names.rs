//! The parameter table: golden checkpoints load by it, files written by it load again.

mod common;

use common::golden::{golden, golden_config, golden_path};
use common::real;
use docre::checkpoint::{
    Checkpoint, Loader, Planned, Stored, TensorFile, TensorWriter, Want, load, save, write_atomic,
};
use docre::model::config::ModelConfig;
use docre::model::names::{Group, Init, ParamSpec, parameter_count, parameter_table, random_encoder, ranges};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

fn place(table: &[ParamSpec], name: &str) -> Range<usize> {
    let i = table.iter().position(|p| p.name == name).unwrap_or_else(|| panic!("no {name}"));
    ranges(table)[i].clone()
}

#[test]
fn golden_weights_land_where_the_table_says() {
    let (config, _) = golden_config("bert");
    let table = parameter_table(&config);
    let (flat, report) = load::<f64>(golden_path("bert.weights"), &table, Want::Everything).unwrap();
    assert_eq!(report.used.len(), 68);
    assert_eq!(report.unused, ["model.pooler.dense.bias", "model.pooler.dense.weight"]);
    assert!(report.missing.is_empty() && report.fresh.is_empty());

    let file = golden("bert.weights");
    let read = |name: &str| file.read_f64(name).unwrap().1;
    let d = 32;
    let key = read("model.encoder.layer.1.attention.self.key.weight");
    assert_eq!(flat[place(&table, "layer.1.qkv.weight")][d * d..2 * d * d], key);
    let value_bias = read("model.encoder.layer.0.attention.self.value.bias");
    assert_eq!(flat[place(&table, "layer.0.qkv.bias")][2 * d..], value_bias);
    let kv = read("axial_transformer.axial_attns.1.axial_attentions.0.fn.to_kv.weight");
    assert_eq!(flat[place(&table, "axial.1.qkv.weight")][d * d..3 * d * d], kv);
    let tail = read("tail_extractor.weight");
    let context = &flat[place(&table, "tail.context.weight")];
    let entity = &flat[place(&table, "tail.entity.weight")];
    for (row, whole) in tail.chunks(2 * d).enumerate() {
        assert_eq!(entity[row * d..][..d], whole[..d]);
        assert_eq!(context[row * d..][..d], whole[d..]);
    }
}

#[test]
fn all_golden_weights_load_and_come_back_bit_equal() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["bert", "roberta", "atlop", "gpu"] {
        let (config, _) = golden_config(name);
        let table = parameter_table(&config);
        let original = golden_path(&format!("{name}.weights"));
        let (flat, _) = load::<f32>(&original, &table, Want::Everything).unwrap();
        let path = dir.path().join(name);
        save(&mut std::fs::File::create(&path).unwrap(), &table, &flat, Stored::F32, &BTreeMap::new()).unwrap();
        let (again, report) = load::<f32>(&path, &table, Want::Everything).unwrap();
        assert!(flat.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
        assert!(report.unused.is_empty());
        // every tensor of ours is one of the original's, with its values
        let (ours, theirs) = (TensorFile::open(&path).unwrap(), TensorFile::open(&original).unwrap());
        assert_eq!(ours.metadata()["format"], "pt");
        for tensor in ours.names() {
            assert_eq!(ours.read_f32(tensor).unwrap(), theirs.read_f32(tensor).unwrap(), "{name} {tensor}");
        }
    }
}

#[test]
fn double_precision_survives_and_bf16_is_the_nearest() {
    let (config, _) = golden_config("atlop");
    let table = parameter_table(&config);
    let (flat, _) = load::<f64>(golden_path("atlop.weights"), &table, Want::Everything).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let through = |stored: Stored| {
        let path = dir.path().join(stored.name());
        save(&mut std::fs::File::create(&path).unwrap(), &table, &flat, stored, &BTreeMap::new()).unwrap();
        load::<f64>(&path, &table, Want::Everything).unwrap().0
    };
    assert_eq!(through(Stored::F64), flat);
    for (rounded, exact) in through(Stored::BF16).iter().zip(&flat) {
        assert_eq!(*rounded, half::bf16::from_f64(*exact).to_f64());
        assert!((rounded - exact).abs() <= exact.abs() / 256.0);
    }
}

#[test]
fn groups_are_ranges_and_offsets_suit_wide_loads() {
    let (config, _) = golden_config("gpu");
    let table = parameter_table(&config);
    let order: Vec<Group> = table.iter().map(|p| p.group).collect();
    let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(changes, 2, "encoder, axial, head, each once");
    assert!(ranges(&table).iter().all(|r| r.start % 8 == 0));
    assert_eq!(parameter_count(&config), ranges(&table).last().map(|r| r.end));
}

#[test]
fn new_layers_start_as_the_recipe_says() {
    let (config, _) = golden_config("bert");
    let mut table = parameter_table(&config);
    let init = |table: &[ParamSpec], name: &str| table.iter().find(|p| p.name == name).unwrap().init;
    let bound = |inputs: f64| Init::Uniform { bound: 1.0 / inputs.sqrt() };
    assert_eq!(init(&table, "head.entity.weight"), bound(64.0)); // of the joined matrix, 2d inputs
    assert_eq!(init(&table, "head.bias"), bound(64.0));
    assert_eq!(init(&table, "bilinear.weight"), bound(256.0));
    assert_eq!(init(&table, "axial.0.1.out.bias"), bound(32.0));
    assert_eq!(init(&table, "axial.1.norm.weight"), Init::Ones);
    assert_eq!(init(&table, "layer.0.qkv.weight"), Init::Required);
    random_encoder(&mut table);
    assert_eq!(init(&table, "layer.0.attention_norm.weight"), Init::Ones);
    assert_eq!(init(&table, "layer.0.qkv.bias"), Init::Zeros);
    assert!(table.iter().all(|p| p.init != Init::Required));
}

/// Copies a golden file under other names; `rename` returns None to leave a tensor out.
fn rewrite(from: &str, to: &Path, rename: impl Fn(&str) -> Option<String>) {
    let file = golden(from);
    let kept: Vec<(&str, String)> = file.names().filter_map(|n| Some((n, rename(n)?))).collect();
    let plan = kept.iter().map(|(n, new)| Planned::new(new, Stored::F64, &file.info(n).unwrap().shape)).collect();
    let mut writer = TensorWriter::new(std::fs::File::create(to).unwrap(), plan, &BTreeMap::new()).unwrap();
    for (name, _) in &kept {
        writer.write(&file.read_f64(name).unwrap().1).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn other_prefixes_and_old_layernorm_names_load_the_same() {
    let (config, _) = golden_config("bert");
    let table = parameter_table(&config);
    let (expected, _) = load::<f64>(golden_path("bert.weights"), &table, Want::Everything).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for prefix in ["", "bert.", "roberta."] {
        let path = dir.path().join("other.safetensors");
        rewrite("bert.weights", &path, |name| {
            let old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            Some(old.strip_prefix("model.").map_or(old.clone(), |rest| format!("{prefix}{rest}")))
        });
        let (flat, _) = load::<f64>(&path, &table, Want::Everything).unwrap();
        assert!(flat == expected, "prefix '{prefix}'");
    }
}

#[test]
fn a_plain_encoder_is_named_as_such_and_takes_a_new_head() {
    let (config, _) = golden_config("bert");
    let table = parameter_table(&config);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    rewrite("bert.weights", &path, |name| name.starts_with("model.").then(|| name.to_string()));
    let error = load::<f32>(dir.path(), &table, Want::Everything).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("E-WEIGHTS", 4));
    assert!(error.what().contains("31 of 68 tensors missing: "), "{error}");
    assert!(error.to_string().contains("plain encoder: train a head with `docre train`"), "{error}");

    let (flat, report) = load::<f32>(dir.path(), &table, Want::Encoder).unwrap();
    assert_eq!(report.missing.len(), 31);
    assert!(report.to_string().starts_with("37 tensors used, 2 unused (model.pooler.dense.bias, "), "{report}");
    let heads: Vec<usize> = (0..table.len()).filter(|&i| table[i].group != Group::Encoder).collect();
    assert_eq!(report.fresh, heads);
    assert!(flat[place(&table, "embeddings.word")].iter().any(|v| *v != 0.0));
    assert!(flat[place(&table, "classifier.weight")].iter().all(|v| *v == 0.0), "left to the caller");
}

#[test]
fn a_head_in_the_file_can_be_left_out() {
    let (config, _) = golden_config("bert");
    let table = parameter_table(&config);
    let (flat, report) = load::<f32>(golden_path("bert.weights"), &table, Want::Encoder).unwrap();
    assert!(report.unused.iter().any(|n| n == "classifier.weight"));
    assert!(flat[place(&table, "classifier.weight")].iter().all(|v| *v == 0.0));
}

/// The golden bert configuration with one text replaced.
fn changed(from: &str, to: &str) -> ModelConfig {
    let text = golden_config("bert").0.to_json();
    assert!(text.contains(from), "{text}");
    ModelConfig::parse(&text.replace(from, to)).unwrap()
}

#[test]
fn a_wrong_shape_names_both_and_a_layer_too_many_is_refused() {
    let refused = |config: &ModelConfig| {
        load::<f32>(golden_path("bert.weights"), &parameter_table(config), Want::Everything).unwrap_err()
    };
    let error = refused(&changed("\"classes\": 7", "\"classes\": 8"));
    assert!(error.what().contains("classifier.weight is 7x32 in the file, the configuration asks for 8x32"), "{error}");
    let error = refused(&changed("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"));
    assert!(error.what().contains("belongs to no layer of the configuration"), "{error}");
    let error = refused(&changed("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"));
    assert!(error.what().contains("16 of 84 tensors missing: encoder.layer.2."), "{error}");
    let error = refused(&changed("\"axial_layers\": 2", "\"axial_layers\": 1"));
    assert!(error.what().contains("belongs to no layer"), "{error}");
}

#[test]
fn a_hostile_configuration_is_refused_before_memory_is_taken() {
    let big = changed("\"vocab_size\": 97", "\"vocab_size\": 4000000").to_json();
    let big = big.replace("\"hidden_size\": 32", "\"hidden_size\": 8192");
    let table = parameter_table(&ModelConfig::parse(&big).unwrap()); // 3.4e10 weights
    let error = load::<f64>(golden_path("bert.weights"), &table, Want::Everything).unwrap_err();
    assert!(error.what().contains("in the file, the configuration asks for"), "{error}");
}

#[test]
fn shards_load_as_one_file_and_cannot_leave_the_directory() {
    let (config, _) = golden_config("bert");
    let table = parameter_table(&config);
    let (expected, _) = load::<f64>(golden_path("bert.weights"), &table, Want::Everything).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let encoder = |name: &str| name.starts_with("model.");
    rewrite("bert.weights", &dir.path().join("a.safetensors"), |n| encoder(n).then(|| n.to_string()));
    rewrite("bert.weights", &dir.path().join("b.safetensors"), |n| (!encoder(n)).then(|| n.to_string()));
    let index = dir.path().join("model.safetensors.index.json");
    let write_index = |a: &str, b: &str| {
        let map: BTreeMap<String, &str> =
            golden("bert.weights").names().map(|n| (n.to_string(), if encoder(n) { a } else { b })).collect();
        let json = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        write_atomic(&index, json.to_string().as_bytes()).unwrap();
    };
    write_index("a.safetensors", "b.safetensors");
    let (flat, report) = load::<f64>(dir.path(), &table, Want::Everything).unwrap();
    assert!(flat == expected && report.used.len() == 68);

    for escape in ["../a.safetensors", "/etc/passwd", "x/../a.safetensors", "..", "", "a\\b"] {
        write_index("a.safetensors", escape);
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(error.what().contains("refused file name"), "{escape}: {error}");
    }
    write_index("a.safetensors", "missing.safetensors");
    assert_eq!(Checkpoint::open(dir.path()).unwrap_err().exit_code(), 6);
    write_index("b.safetensors", "a.safetensors");
    assert!(
        Checkpoint::open(dir.path())
            .unwrap_err()
            .what()
            .contains("axial_transformer.axial_attns.0.axial_attentions.0.fn.to_kv.weight is not in a.safetensors")
    );
}

#[test]
fn a_real_encoder_loads() {
    let Some(dir) = real::minilm() else { return };
    let config = ModelConfig::load(&dir).unwrap();
    assert_eq!((config.encoder.window(), config.encoder.num_hidden_layers), (512, 6));
    let table = parameter_table(&config);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let loader = Loader::check(&checkpoint, &table, Want::Everything).unwrap();
    assert_eq!(loader.report().unused, ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]);
    let mut flat = vec![f32::NAN; parameter_count(&config).unwrap()];
    loader.fill(&mut flat).unwrap();
    assert!(flat.iter().all(|v| v.is_finite()), "every parameter was read");
    assert_eq!(flat.len(), 22_565_376);
    let positions = checkpoint.info("embeddings.position_ids").unwrap();
    assert_eq!(positions.stored, Stored::I64);
}
