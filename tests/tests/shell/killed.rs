//! kill -9 of each process that takes part, in the hold and in the middle of a freeze; the application is watched.

use std::os::unix::fs::MetadataExt;

use holdfast_tests::paused::{Process, all_gone, children};
use holdfast_tests::require::require_root_or_skip;
use rustix::process::Signal;

use crate::site::{SOON, Site, Tested, assert_free, writer_of};

/// Goal: whoever is killed in the hold, the application is released within a second, and no set is made.
#[test]
fn whoever_is_killed_in_the_hold_the_application_is_released() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    for victim in ["requester", "writer", "guardian"] {
        let paused = site.world.pause_at("frozen", ["backup"])?;
        site.assert_held();
        let (shim, guardian) = writer_of(&paused);
        match victim {
            "writer" => shim.signal(Signal::KILL),
            "guardian" => guardian.signal(Signal::KILL),
            _ => {
                let _ = paused.kill();
                site.assert_released(victim);
                all_gone(&[shim, guardian], SOON)?;
                let next = site.world.run(["thaw", "--all"])?.success()?;
                assert!(next.stdout.contains("book: was not held any more"), "{}", next.stdout);
                continue;
            }
        }
        site.assert_released(victim);
        let run = paused.go_on()?;
        assert_free(&run, &["`book` stopped responding"]);
        site.assert_alone(victim);
    }
    assert_eq!(site.sets()?, 0);
    Ok(())
}

/// Goal: who kills the writer and its guardian at one moment leaves the application held, and that is never called
/// released.
#[test]
fn a_writer_and_its_guardian_killed_at_one_moment_are_told_of() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    let paused = site.world.pause_at("frozen", ["backup"])?;
    let (shim, guardian) = writer_of(&paused);
    // As at one moment: the writer does not see it happen.
    shim.signal(Signal::STOP);
    guardian.signal(Signal::KILL);
    shim.signal(Signal::KILL);
    let run = paused.go_on()?;
    run.assert_failed(6, &["MAY STILL BE HELD", "was ended by signal 9 before it had thawed"]);
    site.assert_held();
    site.world.run(["backup"])?.assert_failed(6, &["MAY STILL BE HELD", "by hand"]);
    let told = ["MAY STILL BE HELD", "its guardian were both killed", "run `thaw` of its script by hand"];
    site.world.run(["thaw", "--all"])?.assert_failed(6, &told);
    // It was told; there is nothing more that anybody here could do.
    site.world.run(["thaw", "--all"])?.success()?;
    site.world.run(["backup"])?.success()?;
    site.assert_released("by the next backup");
    Ok(())
}

/// Goal: a freeze that is under way holds nothing later, whoever is killed meanwhile.
#[test]
fn whoever_is_killed_in_the_middle_of_a_freeze_nothing_is_held_later() -> Tested {
    let Some(site) = Site::faulty("hangs-in-freeze")? else { return Ok(()) };
    for victim in ["requester", "writer", "guardian", "script"] {
        let paused = site.world.pause_at("freeze", ["backup", "--freeze-budget", "20s"])?;
        paused.release()?;
        site.wait_for("closed");
        site.assert_held();
        let (shim, guardian) = writer_of(&paused);
        let script = *children(guardian.pid).first().expect("a script");
        let told: &[&str] = match victim {
            "requester" => {
                let _ = paused.kill();
                site.assert_released(victim);
                all_gone(&[shim, guardian, script], SOON)?;
                site.assert_alone(victim);
                continue;
            }
            "writer" => kill(shim, &["signal 9"]),
            "guardian" => kill(guardian, &["its guardian was killed"]),
            _ => kill(script, &["`faulty freeze`: signal 9"]),
        };
        site.assert_released(victim);
        assert_free(&paused.wait()?, told);
        site.assert_alone(victim);
    }
    Ok(())
}

fn kill<'a>(victim: Process, told: &'a [&'a str]) -> &'a [&'a str] {
    victim.signal(Signal::KILL);
    told
}

/// Goal: a thaw that has more to say than anybody listens to is done all the same.
#[test]
fn a_thaw_that_nobody_listens_to_any_more_is_done() -> Tested {
    let Some(site) = Site::faulty("shouts")? else { return Ok(()) };
    let paused = site.world.pause_at("frozen", ["backup"])?;
    site.assert_held();
    let (shim, guardian) = writer_of(&paused);
    let _ = paused.kill();
    site.assert_released("after its requester was killed");
    all_gone(&[shim, guardian], SOON)?;
    // And while somebody listens who is slow.
    site.world.run(["backup"])?.success()?;
    site.assert_alone("at the end");
    Ok(())
}

/// Goal: no script outlives its session, not even one that only describes.
#[test]
fn a_description_that_hangs_ends_with_its_requester() -> Tested {
    let Some(site) = Site::faulty("hangs-in-describe")? else { return Ok(()) };
    let mut running = site.world.spawn(["backup"])?;
    site.wait_for("described");
    running.kill();
    site.assert_alone("after its requester was killed");
    Ok(())
}

/// Goal: as root, the script runs as the owner of its data, and is thawed as him too.
#[test]
fn a_guardian_of_another_user_thaws_as_well() -> Tested {
    const NOBODY: u32 = 65534;
    let (Some(()), Some(mut site)) = (require_root_or_skip(), Site::new()?) else { return Ok(()) };
    site.given_to(NOBODY);
    let paused = site.world.pause_at("frozen", ["backup"])?;
    site.assert_held();
    let (shim, guardian) = writer_of(&paused);
    let closed = site.application().join("closed");
    assert_eq!(std::fs::metadata(closed).expect("it is closed").uid(), NOBODY);
    shim.signal(Signal::KILL);
    site.assert_released("after its writer was killed");
    all_gone(&[guardian], SOON)?;
    assert_free(&paused.go_on()?, &["`book` stopped responding"]);
    site.world.run(["backup"])?.success()?;
    site.assert_alone("at the end");
    Ok(())
}
