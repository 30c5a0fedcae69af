//! Afterwards: there is something to look at.

use super::args::about;
use crate::demo::DemoError;
use crate::demo::stage::Stage;

/// Puts the images back and says what can be done now. `entered`: whether Enter ends it, too.
pub(in crate::demo) async fn stay(stage: &Stage, entered: bool) -> Result<(), DemoError> {
    stage.screen.act("The images are put back.")?;
    let refreshing = async {
        for cache in &stage.caches {
            let mut args = about("refresh", &cache.id);
            args.push("--wait");
            stage.screen.fledged(&args).await?;
        }
        Ok(())
    };
    stage.within("the refresh", refreshing).await?;
    stage.screen.act(match entered {
        true => "The cluster stays up until Enter or Ctrl-C. Meanwhile, in another terminal:",
        false => "The cluster stays up until SIGINT or SIGTERM. Meanwhile, elsewhere:",
    })?;
    stage.screen.say(format_args!(
        "export KUBECONFIG={}\nkubectl get nodes\nkubectl get imagecaches,nodeimagecaches -A",
        stage.kubeconfig.display()
    ))?;
    if let Some(cache) = stage.caches.first() {
        let status = about("status", &cache.id).join(" ");
        stage.screen.say(format_args!("fledged {status}"))?;
    }
    Ok(())
}
