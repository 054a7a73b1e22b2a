//! Scripts that veto, hang, fail and come too late.

use std::fs;
use std::time::{Duration, Instant};

use holdfast_tests::holdfast::binary;
use holdfast_writer_api::protocol::{Launcher, RemoteWriter};
use holdfast_writer_api::{OnlineState, RestoreRequest, Writer, chain};
use uuid::Uuid;

use crate::site::{PATIENCE, SOON, Site, Tested, assert_free};

#[test]
fn any_other_exit_code_vetoes_the_set_and_its_words_are_shown() -> Tested {
    let Some(site) = Site::faulty("vetoes")? else { return Ok(()) };
    let run = site.world.run(["backup"])?;
    assert_free(&run, &["`faulty freeze`: exit status 1", "not on a Sunday"]);
    site.assert_released("after a veto");
    site.assert_alone("after a veto");
    assert_eq!(site.sets()?, 0);
    Ok(())
}

#[test]
fn a_freeze_that_hangs_is_ended_at_its_budget_with_all_that_it_started() -> Tested {
    let Some(site) = Site::faulty("hangs-in-freeze")? else { return Ok(()) };
    let began = Instant::now();
    let run = site.world.run(["backup", "--freeze-budget", "500ms"])?;
    site.assert_released("after a freeze that hangs");
    assert_free(&run, &["`book` did not freeze within"]);
    assert!(began.elapsed() < PATIENCE);
    site.assert_alone("after a freeze that hangs");
    Ok(())
}

/// Goal: what a script leaves behind to hold later holds nothing once the hold is over.
#[test]
fn a_hold_that_comes_later_comes_to_an_end_with_the_hold() -> Tested {
    let Some(site) = Site::faulty("comes-later")? else { return Ok(()) };
    site.world.run(["backup"])?.success()?;
    site.assert_released("after the backup");
    site.assert_alone("after the backup");
    // It would have been closed again several times by now.
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        site.assert_released("later");
    }
    Ok(())
}

#[test]
fn a_thaw_that_hangs_is_ended_and_tried_again() -> Tested {
    let Some(site) = Site::faulty("hangs-once")? else { return Ok(()) };
    let run = site.world.run(["backup"])?;
    assert_free(&run, &["`book` did not thaw within 1000 ms", "attempt 1: it was not done within 2000 ms"]);
    site.assert_released("after the second thaw");
    site.assert_alone("after the second thaw");
    assert_eq!(site.sets()?, 0);
    Ok(())
}

/// Goal: an application that nobody can release is never called free; and it is released as soon as its script can.
#[test]
fn a_thaw_that_fails_is_tried_until_it_succeeds_and_told_by_all_meanwhile() -> Tested {
    let Some(site) = Site::faulty("fails")? else { return Ok(()) };
    let run = site.world.run(["backup"])?;
    let told = ["`book`", "MAY STILL BE HELD", "guardian", "the door is stuck", "thaw --all"];
    run.assert_failed(6, &told);
    site.assert_held();
    let thaw = site.world.run(["thaw", "--all"])?;
    thaw.assert_failed(6, &["could not be released", "STILL HELD", "make the script's `thaw` succeed"]);
    assert!(thaw.stdout.contains("STILL HELD, its guardian still tries to thaw it"), "{}", thaw.stdout);
    assert!(thaw.took < Duration::from_secs(2), "{:?}", thaw.took);
    site.world.run(["backup"])?.assert_failed(6, &["tries to thaw it, so far in vain", "thaw --all"]);

    fs::write(site.application().join("mended"), "").expect("mended");
    site.visitors().wrote_again_within(PATIENCE)?;
    site.assert_alone("once it is mended");
    let thaw = site.world.run(["thaw", "--all"])?.success()?;
    assert!(thaw.stdout.contains("book: was not held any more"), "{}", thaw.stdout);
    site.world.run(["backup"])?.success()?;
    Ok(())
}

#[test]
fn a_hold_ends_at_its_budget_whatever_its_requester_does() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    let paused = site.world.pause_at("frozen", ["backup", "--freeze-budget", "500ms"])?;
    // Nothing but time passes.
    site.visitors().wrote_again_within(SOON + Duration::from_millis(500))?;
    let run = paused.go_on()?;
    // Too late to begin the cut, or to end it.
    assert_free(&run, &["was not created", "budget"]);
    site.assert_alone("after the deadline");
    assert_eq!(site.sets()?, 0);
    Ok(())
}

/// A script with a mistake ends with 1 or 127, not with 3: nobody takes that for "it is down".
#[tokio::test]
async fn a_script_that_breaks_does_not_say_that_its_application_is_down() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    let script = site.script("faulty").display().to_string();
    let launcher = Launcher::new(binary(), ["writer", "shell", &script]);
    for (fault, pid, said) in [
        ("none", None, Ok(OnlineState::Down)),
        ("none", Some("1"), Ok(OnlineState::Ready)),
        ("breaks", None, Err("`book` refused: `faulty online`: exit status 1")),
        ("is-unsure", None, Err("`book` takes no part: `faulty online` ended with exit status 75")),
    ] {
        let (folder, writer) = (site.application(), site.script("visitors"));
        if let Some(pid) = pid {
            fs::write(folder.join("pid"), pid).expect("a file");
        }
        let settings = serde_json::json!({"folder": folder, "writer": writer, "fault": fault});
        let remote = RemoteWriter::new(launcher.clone(), "book", "faulty", settings);
        let metadata = remote.identify().await.expect("a description");
        let (set, components) = (Uuid::now_v7(), vec![metadata.components[0].reference()]);
        let request = RestoreRequest { set, metadata, components, in_place: true };
        let mut restore = remote.begin_restore(request).await.expect("begun");
        let state = restore.online_state().await.map_err(|error| chain(&error));
        assert_eq!(state, said.map_err(str::to_owned), "{fault}");
    }
    Ok(())
}
