//! What only a kernel can show. Without root (and `ip`, `nft`, `tcpdump`) every test here is
//! counted as ignored, by name.

mod bounds;
mod durability;
mod kill;
mod openclaw;
mod outage;
mod paths;
mod privacy;
mod standing;
mod the_lab;

use libtest_mimic::{Arguments, Trial};
use netns_tests::lab;

fn main() {
    let mut arguments = Arguments::from_args();
    // The longest waits for two minutes and does nothing meanwhile; the others share the cores.
    arguments.test_threads.get_or_insert(3);
    let missing = lab::available().err();
    if let Some(what) = &missing {
        eprintln!("netns-tests are ignored: {what}");
    }
    let uncaged = bounds::available().err();
    if let Some(what) = uncaged.as_ref().filter(|_| missing.is_none()) {
        eprintln!("the test in a cage is ignored: {what}");
    }
    // Installing OpenClaw is for those who ask for its tests.
    let wanted = openclaw::TESTS.iter().any(|(name, _)| {
        arguments
            .filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter))
    });
    let unclawed = match wanted && missing.is_none() && !arguments.list {
        true => netns_tests::openclaw::available().err(),
        false => None,
    };
    if let Some(what) = &unclawed {
        eprintln!("the tests with OpenClaw are ignored: {what}");
    }
    let stories = [
        outage::TESTS,
        durability::TESTS,
        kill::TESTS,
        openclaw::TESTS,
        bounds::TESTS,
        paths::TESTS,
        privacy::TESTS,
        standing::TESTS,
        the_lab::TESTS,
    ];
    let trials = stories.concat().into_iter().map(|(name, test)| {
        let claws = openclaw::TESTS.iter().any(|(claw, _)| *claw == name);
        let ignored = missing.is_some()
            || uncaged.is_some() && name == bounds::CAGED
            || unclawed.is_some() && claws;
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(ignored)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// A name that is a sentence, and what shows it.
type Test = (&'static str, fn());
