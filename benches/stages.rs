//! Time that each stage takes: `cargo bench --bench stages`.
#![expect(clippy::expect_used, clippy::panic, reason = "a bench may")]

mod common;

use criterion::{Criterion, criterion_group, criterion_main};

fn stages(criterion: &mut Criterion) {
    for (name, mut stage) in common::stages() {
        criterion.bench_function(name, |bencher| bencher.iter(&mut stage));
    }
}

criterion_group!(benches, stages);
criterion_main!(benches);
