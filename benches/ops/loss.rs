use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::layout::Labels;
use docre::ops::loss::{Distillation, Objective, Teacher, loss};
use docre::tape::Tape;
use std::time::Duration;

pub fn bench(c: &mut Criterion) {
    let (device, cells, classes) = (device(), ENTITIES * ENTITIES, 97);
    let logits = tensor(&device, &[cells, classes]);
    let mut labels = Labels::new(cells, classes);
    (0..cells).step_by(12).for_each(|cell| labels.set(cell, 1 + cell % 96));
    let focal = Objective::AdaptiveFocal { gamma: 1.0, released: true };
    let teacher = Teacher { logits: tensor(&device, &[cells, classes]), weight: 1.0, kind: Distillation::Mse };
    let mut group = c.benchmark_group("loss");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(logits.len() as u64));
    for (name, teacher) in [("focal", None), ("focal + mse", Some(&teacher))] {
        group.bench_function(name, |b| {
            b.iter(|| loss(&mut Tape::training(1, 1), &logits, &labels, focal, teacher, cells))
        });
    }
    group.finish();
}
