//! Runs loom models and counts their executions, so that a model which no longer explores anything
//! is noticed.

/// The stack of each thread of a long model, in words.
#[cfg(loom)]
const STACK_WORDS: usize = 1 << 17;
/// Preemptions explored in each execution of a short model, unless `LOOM_MAX_PREEMPTIONS` says
/// otherwise.
#[cfg(loom)]
const SHORT_PREEMPTIONS: usize = 3;
/// Steps allowed in one execution of a short and of a long model, unless `LOOM_MAX_BRANCHES` says
/// otherwise.
#[cfg(loom)]
const BRANCHES: [usize; 2] = [20_000, 100_000];

/// Explores `model` under loom and prints how many executions that took.
///
/// Each execution has at most 3 preemptions, or as many as `LOOM_MAX_PREEMPTIONS` says.
///
/// # Panics
/// When an execution panics, or when there were fewer than `at_least` executions: the model then
/// explores no concurrency. A bound that `LOOM_MAX_PREEMPTIONS` lowers below the default is exempt
/// from that minimum.
#[cfg(loom)]
pub fn model(name: &str, at_least: usize, model: impl Fn() + Sync + Send + 'static) {
    explore(name, at_least, SHORT_PREEMPTIONS, BRANCHES[0], model);
}

/// Explores a model of whole operations, which takes more steps and more stack than loom gives by
/// default.
///
/// Each execution has at most `preemptions` preemptions, or as many as `LOOM_MAX_PREEMPTIONS` says.
/// The other threads of the model must be started with [`spawn`], which gives them as much stack.
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
    let model = std::sync::Arc::new(model);
    explore(name, at_least, preemptions, BRANCHES[1], move || {
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
    name: &str,
    at_least: usize,
    preemptions: usize,
    branches: usize,
    model: impl Fn() + Sync + Send + 'static,
) {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    // loom's builder reads LOOM_MAX_PREEMPTIONS and LOOM_MAX_BRANCHES itself; the defaults here
    // apply where they are not set.
    let mut builder = loom::model::Builder::new();
    let bound = builder.preemption_bound.unwrap_or(preemptions);
    builder.preemption_bound = Some(bound);
    if std::env::var_os("LOOM_MAX_BRANCHES").is_none() {
        builder.max_branches = branches;
    }
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executions);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = executions.load(Ordering::Relaxed);
    // Not `println!`: the test harness hides what a passing test prints with it.
    let line = format!("model {name}: {executions} executions, at most {bound} preemptions\n");
    std::io::stdout().write_all(line.as_bytes()).expect("standard output is open");
    assert!(
        executions >= at_least || bound < preemptions,
        "model {name} collapsed: {executions} executions, not {at_least}"
    );
}

/// Stands in a `tests/loom.rs`: fails when the models were asked for and compiled without `--cfg
/// loom`.
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
