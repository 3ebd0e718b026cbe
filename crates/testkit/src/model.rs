//! Runs loom models and counts their executions, so that a model which no longer explores anything is noticed.

/// The stack of a long model's threads, in words.
#[cfg(loom)]
const STACK_WORDS: usize = 1 << 17;

/// Explores `model` under loom, prints how many executions that took, and fails below `at_least`.
///
/// # Panics
/// When an execution panics, or when there were fewer than `at_least`: then the model has lost its concurrency.
#[cfg(loom)]
pub fn model(name: &str, at_least: usize, model: impl Fn() + Sync + Send + 'static) {
    explore(loom::model::Builder::new(), name, at_least, model);
}

/// The same for a model of whole operations, which take too many steps for the usual bounds and need more stack than loom
/// gives a thread ([`spawn`] gives it to the others): explores every execution with at most `preemptions` preemptions.
///
/// # Panics
/// As [`model`].
#[cfg(loom)]
pub fn long_model(
    name: &str,
    at_least: usize,
    preemptions: usize,
    model: impl Fn() + Sync + Send + 'static,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    let model = std::sync::Arc::new(model);
    explore(builder, name, at_least, move || {
        let model = std::sync::Arc::clone(&model);
        spawn(move || model()).join().expect("the model does not panic");
    });
}

/// Starts a thread of a long model.
///
/// # Panics
/// When the model has too many threads.
#[cfg(loom)]
pub fn spawn<R: Send + 'static>(
    body: impl FnOnce() -> R + Send + 'static,
) -> loom::thread::JoinHandle<R> {
    let thread = loom::thread::Builder::new().stack_size(STACK_WORDS).spawn(body);
    thread.expect("a model has at most four threads")
}

#[cfg(loom)]
fn explore(
    builder: loom::model::Builder,
    name: &str,
    at_least: usize,
    model: impl Fn() + Sync + Send + 'static,
) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executions);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = executions.load(Ordering::Relaxed);
    println!("model {name}: {executions} executions");
    assert!(
        executions >= at_least,
        "model {name} collapsed: {executions} executions, not {at_least}"
    );
}

/// Stands in a `tests/loom.rs`: fails when the models were asked for and compiled without `--cfg loom`.
#[macro_export]
macro_rules! models_need_the_loom_flag {
    () => {
        #[cfg(not(loom))]
        #[test]
        fn models_are_compiled_when_they_are_asked_for() {
            assert!(
                std::env::var_os("LOOM_RUN").is_none(),
                "`cargo loom` needs `--cfg loom`, but RUSTFLAGS replaces the flags of its alias: unset it"
            );
        }
    };
}
