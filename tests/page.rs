//! Pages: hostile names, broken numbers, long histories; TensorBoard's files, read by another program.

use docre::metrics::curves::{Bin, Curves, Point};
use docre::metrics::{RelationScore, Report, Score, html};
use docre::page::{Axis, Bar, Chart, Look, Mark, Series, escape};
use docre::train::events::{Events, frame, message, summary};
use docre::train::history::{FIGURES, History, Thinned, smooth};
use docre::train::log::Log;
use docre::train::{Config, End};
use serde_json::{Value, json};
use std::path::Path;

const HOSTILE: &str = "</script><script>alert(1)</script>\"'\n<img src=http://example.com/x>\u{0}\u{202e}&amp;";

#[test]
fn text_is_escaped() {
    assert_eq!(escape("a<b>&\"'c\n\u{0}\u{7f}é"), "a&lt;b&gt;&amp;&quot;&#39;c\n\u{fffd}\u{fffd}é");
}

/// Names everywhere that try to leave their place.
fn hostile_report() -> Report {
    let score = Score::new(3, 5, 7);
    let mut report = Report { all: score, intra: score, documents: 1, duplicates: 2, ..Report::default() };
    report.relations = vec![RelationScore { r: HOSTILE.into(), name: Some(HOSTILE.into()), score }];
    report.unknown_relations.insert(HOSTILE.into(), 1);
    let point = |shift: f64| Point { shift, precision: 60.0 + 10.0 * shift, recall: 50.0 - 10.0 * shift, f1: 54.5 };
    let bin = |low: f64, count| Bin { low, high: low + 0.1, count, mean_score: low + 0.04, precision: low - 0.1 };
    report.curves = Some(Curves {
        points: [-1.0, 0.0, 1.0].map(point).to_vec(),
        reliability: vec![bin(0.5, 0), bin(0.6, 9), bin(0.7, 90)],
        calibration_error: 0.125,
    });
    report
}

#[test]
fn hostile_names_stay_text() {
    let page = html(&hostile_report(), HOSTILE, &[("Gold", HOSTILE.to_string())]);
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
    assert!(!page.contains("<img") && !page.contains('\0'));
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
}

#[test]
fn the_report_shows_every_figure() {
    let page = html(&hostile_report(), "Evaluation", &[]);
    for part in
        ["50.00", "adaptive threshold", "long tail", "calibration error 0.125", "90 predictions", "counted once"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!((page.matches("<rect class=\"few\"").count(), page.matches("<rect").count()), (1, 4));
    let plain = html(&Report::default(), "Evaluation", &[]);
    assert!(!plain.contains("<svg") && !plain.contains("NaN") && !plain.contains("class=\"warnings\""));
}

fn line(points: &[(f64, f64)]) -> Chart {
    let series = Series { name: "s".into(), points: points.to_vec(), look: Look::Line, colour: 0 };
    Chart { title: "t".into(), series: vec![series], ..Chart::default() }
}

/// The texts of the ticks, y then x.
fn ticks(chart: &Chart) -> Vec<String> {
    let html = chart.html();
    let texts = html.split("<text ").skip(1).map(|t| t.split(['>', '<']).nth(1).unwrap().to_string());
    texts.filter(|text| !text.is_empty()).collect()
}

#[test]
fn ticks_are_round_numbers() {
    assert_eq!(
        ticks(&line(&[(0.0, 0.0), (3000.0, 9.0)])),
        ["0", "2", "4", "6", "8", "0", "500", "1000", "1500", "2000", "2500", "3000"]
    );
    let tiny = ticks(&line(&[(0.0, 0.0), (1.0, 3e-5)]));
    assert_eq!(tiny[..4], ["0", "1e-5", "2e-5", "3e-5"]);
    let steps = ticks(&line(&[(0.0, 0.1), (1.0, 0.3)]));
    assert_eq!(steps[..5], ["0.10", "0.15", "0.20", "0.25", "0.30"]);
    let large = ticks(&line(&[(0.0, 1e6), (1.0, 1.04e6)]));
    assert_eq!(large[..3], ["1.00e6", "1.01e6", "1.02e6"]);
    let log = Axis { log: true, ..Axis::default() };
    let decades = Chart { y: log.clone(), ..line(&[(0.0, 1e-2), (1.0, 1e3)]) };
    assert_eq!(ticks(&decades)[..6], ["0.01", "0.1", "1", "10", "100", "1000"]);
    let few = Chart { y: log, ..line(&[(0.0, 0.4), (1.0, 6.0)]) };
    assert_eq!(ticks(&few)[..4], ["0.5", "1", "2", "5"]);
}

#[test]
fn lines_are_where_the_numbers_are() {
    let axis = |high| Axis { low: Some(0.0), high: Some(high), ..Axis::default() };
    let chart = Chart { x: axis(10.0), y: axis(4.0), ..line(&[(0.0, 0.0), (5.0, 1.0), (10.0, 4.0)]) };
    // The frame: 54 to 468, and 228 up to 10.
    assert!(chart.html().contains("points=\"54.00,228.00 261.00,173.50 468.00,10.00\""), "{}", chart.html());
    let bar = Bar { from: 2.0, to: 4.0, height: 1.0, note: HOSTILE.into(), few: false };
    let bars = Chart { bars: vec![bar], ..chart }.html();
    assert!(
        bars.contains("x=\"137.8\" y=\"173.5\" width=\"80.8\" height=\"54.5\"") && !bars.contains("<img"),
        "{bars}"
    );
}

#[test]
fn broken_numbers_are_gaps() {
    let nan = line(&[(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, f64::INFINITY), (5.0, 2.0)]).html();
    assert_eq!(nan.matches("<polyline").count(), 3);
    let drawn = |html: &str| !html.is_empty() && !html.contains("NaN") && !html.contains("inf");
    assert!(drawn(&nan), "{nan}");
    let values = [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e300, -1e300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY];
    for a in values {
        for b in values {
            for log in [false, true] {
                let axis = Axis { log, ..Axis::default() };
                let html = Chart { y: axis.clone(), x: axis, ..line(&[(a, b), (b, a)]) }.html();
                assert!(html.is_empty() || (drawn(&html) && html.len() < 20_000), "{a} {b} {log}: {html}");
            }
        }
    }
    assert_eq!(line(&[]).html(), "");
    assert_eq!(line(&[(f64::NAN, 1.0)]).html(), "");
    let mark = Mark { x: f64::NAN, y: 1.0, label: "m".into(), colour: 0 };
    assert!(!Chart { marks: vec![mark], ..line(&[(0.0, 1.0)]) }.html().contains("class=\"mark\""));
}

#[test]
fn curves_are_thinned_to_means() {
    let value = |update: u64| ((update * 7919) % 1000) as f64;
    let mut curve = Thinned::default();
    (1..=100_000).for_each(|update| curve.add(update, value(update)));
    let points = curve.points();
    assert!((200..=400).contains(&points.len()), "{}", points.len());
    // 256 updates each: 100,000 / 256 is the first below 400.
    for (i, &(x, y)) in points.iter().enumerate() {
        let updates: Vec<u64> = (1..=100_000).filter(|update| update / 256 == i as u64).collect();
        let mean = |sum: f64| sum / updates.len() as f64;
        let want = (mean(updates.iter().map(|&u| u as f64).sum()), mean(updates.iter().map(|&u| value(u)).sum()));
        assert!((x - want.0).abs() < 1e-6 && (y - want.1).abs() < 1e-6, "{i}: {x} {y} {want:?}");
    }
    let mut few = Thinned::default();
    (1..=399).for_each(|update| few.add(update, value(update)));
    assert_eq!(few.points(), (1..=399).map(|update| (update as f64, value(update))).collect::<Vec<_>>());
    few.cut(100);
    assert_eq!((few.points().len(), few.points()[98]), (99, (99.0, value(99))));
    few.add(u64::MAX, 1.0);
    assert!(few.points().len() <= 400);
}

#[test]
fn smoothing_keeps_straight_lines_and_ends() {
    let constant: Vec<(f64, f64)> = (0..300).map(|i| (f64::from(i), 2.5)).collect();
    assert!(smooth(&constant).iter().zip(&constant).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-12));
    // Far from the ends a straight line stays: no lag.
    let straight: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i), 3.0 * f64::from(i))).collect();
    assert!((smooth(&straight)[200].1 - 600.0).abs() < 1e-3, "{:?}", smooth(&straight)[200]);
    assert_eq!(smooth(&[(1.0, 4.0)]), [(1.0, 4.0)]);
    assert!(smooth(&[]).is_empty());
}

fn update(update: u64, loss: f64) -> Value {
    json!({"update": update, "epoch": 0, "loss": loss, "norm": 1.5, "rates": [1e-4, 2e-4, 3e-4], "skipped": null,
        "documents_per_second": 3.25, "memory_mib": 611.0, "distillation": 0.25, "evidence": 0.125})
}

fn config() -> Config {
    let text = format!("[data]\ntrain = [{}]\n[model]\nstart = \"encoder\"\n", json!(HOSTILE));
    Config::parse(&text, &[]).unwrap()
}

fn page(dir: &Path, log: &Log, end: Option<End>) -> String {
    log.page(&config(), 20, end).unwrap();
    std::fs::read_to_string(dir.join("index.html")).unwrap()
}

#[test]
fn a_run_that_goes_on_shows_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path()).unwrap();
    (1..=6).for_each(|u| log.line(&update(u, 2.0)).unwrap());
    log.line(&json!({"update": 6, "epoch": 0, "dev_f1": 90.0})).unwrap();
    let text = page(dir.path(), &log, None);
    assert!(text.contains("<dd>6</dd>") && text.contains("90.00") && text.contains("in training"), "{text}");
    // Killed in the middle of a line; goes on from update 4.
    let path = dir.path().join("train.jsonl");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"update\":7,\"lo").unwrap();
    let mut log = Log::open(dir.path()).unwrap();
    (5..=8).for_each(|u| log.line(&update(u, 1.0)).unwrap());
    log.line(&json!({"update": 9, "loss": null, "norm": null, "skipped": HOSTILE})).unwrap();
    log.line(&json!({"update": 9, "epoch": 0, "dev_f1": 41.5})).unwrap();
    let text = page(dir.path(), &log, Some(End::Finished));
    assert!(text.contains("<dd>9</dd>") && text.contains("of 20 (45 %)") && text.contains("finished"));
    assert!(text.contains("41.50") && !text.contains("90.00"), "the update of the best F1 was done again");
    assert!(text.contains("was not finite: 1") && text.matches("<svg").count() == 8);
    assert_eq!((text.matches("<script").count(), text.contains("<img")), (1, false), "the configuration is text");
    let raw = text.split("line raw\" points=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(raw.split(' ').count(), 8, "updates 1 to 8, once each: {raw}");
    let lines = std::fs::read_to_string(&path).unwrap();
    let whole = lines.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
    assert_eq!((whole, lines.lines().count()), (13, 14), "the broken line spoils no other");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().filter(|f| is_events(f.as_ref().unwrap())).count(), 2);
}

#[test]
fn lines_that_are_none_change_nothing() {
    let mut history = History::default();
    for line in
        ["null", "[]", "7", "{}", r#"{"update":"x"}"#, r#"{"update":-1,"loss":3}"#, r#"{"update":1,"loss":"x"}"#]
    {
        history.add(&serde_json::from_str(line).unwrap());
    }
    assert!(!history.page(HOSTILE, &config(), 0, None).contains("<svg"));
}

fn is_events(file: &std::fs::DirEntry) -> bool {
    file.file_name().to_str().unwrap().starts_with("events.out.tfevents.")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Made with the Python package tensorboard 2.21 (`RecordWriter` and `event_pb2`) from the same values.
#[test]
fn events_are_the_bytes_that_tensorboard_writes() {
    let version = message(1.5, 0, 3, b"brain.Event:2");
    assert_eq!(
        hex(&frame(&version)),
        "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
    );
    assert_eq!(
        hex(&frame(&message(1.5, 7, 7, &[8, 1]))),
        "0f000000000000006d532b0909000000000000f83f10073a020801774771c7"
    );
    let values = summary(&[("train/loss", 0.25), ("dev/f1", 58.72)]);
    assert_eq!(
        hex(&frame(&message(1.5, 300, 5, &values))),
        "300000000000000095f5d05f09000000000000f83f10ac022a220a110a0a747261696e2f6c6f7373150000803e0a0d0a066465762f66311548e16a42c572bead"
    );
}

/// CRC-32C by its definition as a polynomial, most significant bit first on reversed bits: not as the program has it.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        for bit in 0..8 {
            let top = (crc >> 31) ^ u32::from(byte >> bit & 1);
            crc = (crc << 1) ^ if top == 1 { 0x1edc_6f41 } else { 0 };
        }
    }
    !crc.reverse_bits()
}

/// The messages of an event file, their sums checked.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mask = |crc: u32| crc.rotate_left(17).wrapping_add(0xa282_ead8);
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(word(&bytes[8..]), mask(crc32c(&bytes[..8])));
        let message = &bytes[12..12 + length];
        assert_eq!(word(&bytes[12 + length..]), mask(crc32c(message)));
        found.push(message.to_vec());
        bytes = &bytes[16 + length..];
    }
    found
}

/// The fields of a protobuf message: number, value of a number, bytes of the rest.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, varint(&mut bytes), vec![]));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, 0, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    found
}

#[test]
fn another_reader_finds_what_was_logged() {
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa, "RFC 3720, B.4");
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path()).unwrap();
    log.line(&update(300, 0.5)).unwrap();
    log.line(&json!({"update": 300, "dev_f1": 58.72})).unwrap();
    log.line(&json!({"update": 301, "loss": null, "norm": null, "skipped": "x"})).unwrap();
    let file = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap()).find(is_events).unwrap();
    let events: Vec<_> = records(&std::fs::read(file.path()).unwrap()).iter().map(|m| fields(m)).collect();
    assert_eq!(events.len(), 4, "a version, a start, and nothing of an update without a figure");
    assert!(events[0].contains(&(3, 0, b"brain.Event:2".to_vec())));
    assert!(events[1].contains(&(2, 300, vec![])) && events[1].contains(&(7, 0, vec![8, 1])));
    let scalars = |event: &[(u64, u64, Vec<u8>)]| -> Vec<(String, f32)> {
        let summary = event.iter().find(|f| f.0 == 5).unwrap();
        let value = |one: (u64, u64, Vec<u8>)| {
            let parts = fields(&one.2);
            let number = f32::from_le_bytes(parts[1].2[..].try_into().unwrap());
            (String::from_utf8(parts[0].2.clone()).unwrap(), number)
        };
        fields(&summary.2).into_iter().map(value).collect()
    };
    let want = [
        ("train/loss", 0.5),
        ("train/gradient_norm", 1.5),
        ("rate/encoder", 1e-4),
        ("rate/axial", 2e-4),
        ("rate/head", 3e-4),
        ("speed/documents_per_second", 3.25),
        ("memory/mib", 611.0),
        ("train/distillation", 0.25),
        ("train/evidence", 0.125),
    ];
    assert_eq!(scalars(&events[2]), want.map(|(tag, value)| (tag.to_string(), value)));
    assert_eq!(scalars(&events[3]), [("dev/f1".to_string(), 58.72)]);
    assert_eq!(FIGURES.len(), want.len() + 1);
    let seconds = f64::from_le_bytes(events[3][0].2[..].try_into().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((0.0..600.0).contains(&(now - seconds)), "{seconds} {now}");
    assert_eq!(Events::create(&dir.path().join("none"), 1).err().unwrap().code(), "E-IO");
}
