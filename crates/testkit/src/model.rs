//! Runs loom models and counts their executions, so that a model which no longer explores anything is noticed.

/// Explores `model` under loom, prints how many executions that took, and fails below `at_least`.
///
/// # Panics
/// When an execution panics, or when there were fewer than `at_least`: then the model has lost its concurrency.
#[cfg(loom)]
pub fn model(name: &str, at_least: usize, model: impl Fn() + Sync + Send + 'static) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executions);
    loom::model(move || {
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
