//! Bundles that nobody vouches for, and logs through the API.

mod rig;

use flate2::write::GzEncoder;
use rig::*;
use serde_json::Value;
use tar::{EntryType, Header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

type Tar = tar::Builder<GzEncoder<Vec<u8>>>;

fn archive(fill: impl FnOnce(&mut Tar)) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    fill(&mut tar);
    tar.into_inner().unwrap().finish().unwrap()
}

/// Adds an entry whose name is written as it is, which the library would refuse to.
fn add(tar: &mut Tar, name: &str, kind: EntryType, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o6777);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

async fn put(rig: &Rig, archive: &[u8]) -> (u16, Value) {
    rig.client.call("PUT", &format!("/v1/bundles/{}", digest(archive)), archive).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_bundle_leaves_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let rig = Rig::start_with(config(&state), Default::default()).await;
    use EntryType as T;
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("outside", archive(|tar| add(tar, "../../../evil", T::Regular, "", b"x"))),
        ("outside", archive(|tar| add(tar, "/tmp/steady-evil", T::Regular, "", b"x"))),
        ("outside", archive(|tar| add(tar, "a/../../evil", T::Regular, "", b"x"))),
        ("outside", archive(|tar| add(tar, "link", T::Symlink, "/etc/passwd", b""))),
        ("outside", archive(|tar| add(tar, "link", T::Symlink, "../../../token", b""))),
        ("outside", archive(|tar| add(tar, "hard", T::Link, "../../token", b""))),
        (
            "there twice",
            archive(|tar| {
                add(tar, "real", T::Directory, "", b"");
                add(tar, "d/in", T::Regular, "", b"x");
                add(tar, "d", T::Symlink, "real", b"");
            }),
        ),
        (
            // Each link stays inside by its letters; followed one through the other they leave.
            "outside",
            archive(|tar| {
                add(tar, "x", T::Directory, "", b"");
                add(tar, "sub", T::Directory, "", b"");
                add(tar, "sub/up", T::Symlink, "../x", b"");
                add(tar, "out", T::Symlink, "sub/up/../..", b"");
            }),
        ),
        ("character device", archive(|tar| add(tar, "null", T::Char, "", b""))),
        ("named pipe", archive(|tar| add(tar, "pipe", T::Fifo, "", b""))),
        ("more than 50 files", archive(|tar| (0..60).for_each(|n| add(tar, &format!("f{n}"), T::Regular, "", b"")))),
        ("larger than 4194304", archive(|tar| add(tar, "zeros", T::Regular, "", &vec![0; 5 << 20]))),
        (
            // Small as it travels: each link becomes a copy.
            "larger than 4194304",
            archive(|tar| {
                add(tar, "zeros", T::Regular, "", &vec![0; 1 << 20]);
                (0..10).for_each(|n| add(tar, &format!("l{n}"), T::Link, "zeros", b""));
            }),
        ),
        ("metadata", archive(|tar| add(tar, "././@LongLink", T::GNULongName, "", &vec![b'a'; 100_000]))),
        ("not a tar.gz", b"not gzip at all".to_vec()),
    ];
    for (number, (reason, archive)) in attacks.iter().enumerate() {
        let (status, problem) = put(&rig, archive).await;
        assert_eq!(status, 422, "{number}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(reason), "{number}: {problem}");
        assert_eq!(rig.client.call("GET", &format!("/v1/bundles/{}", digest(archive)), b"").await.0, 404);
    }
    let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.extend(std::fs::read_dir(state.join("bundles")).unwrap().map(|e| e.unwrap().file_name()));
    left.extend(std::fs::read_dir(state.join("incoming")).unwrap().map(|e| e.unwrap().file_name()));
    assert_eq!(left, ["state"], "nothing was left outside or half done");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_of_another_digest_or_too_large_is_refused_and_a_right_one_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let good = pack(&[("steady.toml", TOML), ("deep/er/file", "content")]);
    let path = format!("/v1/bundles/{}", digest(&good));
    let (status, problem) = rig.client.call("PUT", &format!("/v1/bundles/{}", "0".repeat(64)), &good).await;
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains(&digest(&good)), "{problem}");
    let large = vec![7; (1 << 20) + 1];
    assert_eq!(put(&rig, &large).await.0, 413);
    assert_eq!(rig.client.call("GET", &path, b"").await.0, 404);
    assert_eq!(put(&rig, &good).await.0, 201);
    assert_eq!(put(&rig, &good).await.0, 201);
    assert_eq!(rig.client.call("HEAD", &path, b"").await.0, 200);
    let file = dir.path().join("bundles").join(digest(&good)).join("deep/er/file");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "content");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_bundle_is_collected_and_a_used_one_is_not() {
    use std::time::{Duration, SystemTime};
    use steady_agent::bundle::Bundles;
    use steady_agent::records::Digest;
    let dir = tempfile::tempdir().unwrap();
    let bundles = Bundles::open(dir.path(), Default::default()).unwrap();
    let mut digests = Vec::new();
    for name in ["a", "b"] {
        let archive = pack(&[(name, name)]);
        let name = Digest::parse(&digest(&archive)).unwrap();
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(archive))]);
        bundles.put(&name, body).await.unwrap();
        digests.push(name);
    }
    let held = bundles.hold(&digests[0]).unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(bundles.collect(hour, SystemTime::now()).unwrap(), 0, "both are young");
    assert_eq!(bundles.collect(hour, SystemTime::now() + 2 * hour).unwrap(), 1);
    assert!(bundles.has(&digests[0]) && !bundles.has(&digests[1]));
    drop(held);
    // Whoever asks whether it is here wants it next, and finds it.
    let folder = std::fs::File::open(dir.path().join("bundles").join(digests[0].as_str())).unwrap();
    let old = SystemTime::now() - 2 * hour;
    folder.set_modified(old).unwrap();
    assert!(bundles.renew(&digests[0]) && !bundles.renew(&digests[1]));
    assert_eq!(bundles.collect(hour, SystemTime::now()).unwrap(), 0, "it was asked for");
    folder.set_modified(old).unwrap();
    let nothing = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::new())]);
    bundles.put(&digests[0], nothing).await.unwrap();
    assert_eq!(bundles.collect(hour, SystemTime::now()).unwrap(), 0, "it was sent again");
    assert_eq!(bundles.collect(hour, SystemTime::now() + 2 * hour).unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_application_made_unremovable_is_collected_and_stops_no_agent_from_starting() {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::{Duration, SystemTime};
    use steady_agent::bundle::Bundles;
    use steady_agent::records::Digest;
    let dir = tempfile::tempdir().unwrap();
    let lock_up = |folder: &Path| {
        std::fs::create_dir_all(folder.join("cache")).unwrap();
        std::fs::write(folder.join("cache/file"), "x").unwrap();
        for folder in [folder.join("cache"), folder.to_owned()] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o555)).unwrap();
        }
    };
    let left = |name: &str| std::fs::read_dir(dir.path().join(name)).unwrap().count();
    // Of an agent that ended meanwhile.
    lock_up(&dir.path().join("incoming/left"));
    let bundles = Bundles::open(dir.path(), Default::default()).unwrap();
    assert_eq!(left("incoming"), 0);
    for name in ["a", "b"] {
        let archive = pack(&[(name, name)]);
        let name = Digest::parse(&digest(&archive)).unwrap();
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(archive))]);
        bundles.put(&name, body).await.unwrap();
        lock_up(&dir.path().join("bundles").join(name.as_str()));
    }
    let hour = Duration::from_secs(3600);
    assert_eq!(bundles.collect(hour, SystemTime::now() + 2 * hour).unwrap(), 2);
    assert_eq!((left("bundles"), left("incoming")), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_followed_live_across_a_crash_and_its_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path()).await;
    let noisy = server("one")
        .replace("s.serve_forever()", "for n in range(3000): print(f'line {n}', flush=True)\ns.serve_forever()");
    let digest = rig.client.bundle(&[("steady.toml", TOML), ("app.py", &noisy)]).await;
    assert_eq!(rig.client.place("shop", 1, "owner", 1, &digest).await.0, 200);
    let ready = rig.plane.until_ready("shop").await;
    let mut io = TcpStream::connect(&rig.client.addr).await.unwrap();
    let request = format!(
        "GET /v1/apps/shop/logs?lines=2&follow=true HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
        rig.client.token
    );
    io.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut until = async |wanted: &str| {
        let mut buffer = [0; 65536];
        while !text.contains(wanted) {
            let count = tokio::time::timeout(PATIENCE, io.read(&mut buffer)).await.unwrap().unwrap();
            assert!(count > 0, "it ended without {wanted:?}: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    until("line 2999").await;
    ready.get("/crash").await;
    until("crashing now").await;
    until("it exited with code 7").await;
    until("--- started version 1").await;
    let files = std::fs::read_dir(dir.path().join("apps/shop/log")).unwrap().count();
    assert!((2..=5).contains(&files), "{files} files");
    rig.stop().await;
}
