//! `fledged status`.

use fledged_tests::kube::World;
use serde_json::json;

use crate::terminal::support::{APP, NOPE, fledged, stderr_has, words};

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_nodes_by_images_with_reasons() {
    let world = World::start().await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    let b = world.node("b").await;
    world.apply("web", &[APP, NOPE]).await;
    world.ended("web", "ImageCacheCreate", "Failed").await;
    b.object.set_ready(false).await;
    let unreachable = |status: &fledged_kube::crd::ImageCacheStatus| {
        status.counts.is_some_and(|counts| counts.unreachable == 2)
    };
    world
        .status_when("web", "counting an unreachable node", unreachable)
        .await;

    let table = fledged(&world, &["status", "web"], 0).stdout;
    let line = |start: &str| {
        let mut lines = table.lines();
        let found = lines.find(|line| words(line).first() == Some(&start));
        words(found.unwrap_or_else(|| panic!("no {start} in {table}"))).join(" ")
    };
    assert!(table.starts_with("ImageCache "), "{table}");
    assert!(table.contains("web: ImageCacheCreate Failed"), "{table}");
    assert!(
        table.contains(&format!("  1  {APP}\n  2  {NOPE}\n")),
        "{table}"
    );
    assert_eq!(line("NODE"), "NODE 1 2 WHY");
    assert_eq!(line(a.name()), format!("{} C F 2 ImageNotFound", a.name()));
    assert!(line(b.name()).starts_with(&format!("{} U U NotReady", b.name())));
    assert_eq!(line("C"), "C cached, U unreachable, F failed");
    let text = format!("2 on {}: ImageNotFound: manifest unknown", a.name());
    assert!(table.contains(&text), "{table}");
    assert!(!table.contains('\u{1b}'), "colours without a terminal");

    let document = fledged(&world, &["status", "web", "-o", "json"], 0).json();
    assert_eq!(document["images"], json!([APP, NOPE]));
    assert_eq!(document["imageCache"]["status"], "Failed");
    let node = &document["nodes"][0];
    assert_eq!(
        (&node["name"], &node["unreachable"]),
        (&json!(a.name()), &json!(null))
    );
    assert_eq!(node["images"][0]["state"], "Cached");
    assert_eq!(node["images"][1]["state"], "Failed");
    assert_eq!(node["images"][1]["reason"], "ImageNotFound");
    assert_eq!(document["nodes"][1]["unreachable"], "NotReady");

    let summed = fledged(&world, &["status", "web", "--max-nodes", "1"], 0).stdout;
    assert!(summed.contains("1 more node"), "{summed}");
    stderr_has(
        &fledged(&world, &["status", "wep"], 1),
        &["no ImageCache \"wep\""],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_a_purged_cache_shows_removed_images() {
    let world = World::start().await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    world
        .annotate("web", "kubefledged.io/purge-imagecache")
        .await;
    world.ended("web", "ImageCachePurge", "Succeeded").await;
    let document = fledged(&world, &["status", "web", "-o", "json"], 0).json();
    assert_eq!(document["imageCache"]["purged"], true);
    assert_eq!(document["nodes"][0]["name"], a.name());
    assert_eq!(document["nodes"][0]["images"][0]["state"], "Removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_many_images_folds_them() {
    let world = World::start().await;
    let images: Vec<String> = (0..60).map(|n| format!("registry.test/app:{n}")).collect();
    let mut images: Vec<&str> = images.iter().map(String::as_str).collect();
    world.publish(&images);
    let _node = world.node("a").await;
    images.push(NOPE);
    world.apply("web", &images).await;
    world.ended("web", "ImageCacheCreate", "Failed").await;
    let folded = fledged(&world, &["status", "web"], 0).stdout;
    assert!(folded.contains(&format!("  1  {NOPE}\n")), "{folded}");
    let cached = "  2  60 images cached on the node, for example registry.test/app:0\n";
    assert!(folded.contains(cached), "{folded}");
    for flag in ["--all", "--wide"] {
        let all = fledged(&world, &["status", "web", flag], 0).stdout;
        assert!(all.contains(&format!(" 61  {NOPE}\n")), "{all}");
    }
    let both = ["status", "web", "--all", "--max-nodes", "3"];
    stderr_has(&fledged(&world, &both, 2), &["--max-nodes"]);
}
