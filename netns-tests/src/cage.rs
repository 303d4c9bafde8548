//! The least that a gateway must live with: uid 1000, no capability, nothing writable but its
//! state, 256 MB and a quarter of a CPU.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Where a confined process may write, and the words before its command that confine it.
pub struct Cage {
    home: tempfile::TempDir,
    groups: Vec<Group>,
}

/// A control group of ours. Dropping it removes it, when its last process is gone.
struct Group(PathBuf);

impl Cage {
    /// Makes the groups and a state directory of uid 1000. The error says what this host lacks.
    pub fn new() -> Result<Self, String> {
        let home = tempfile::tempdir().map_err(|error| error.to_string())?;
        let state = home.path().join("state");
        let owned = fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))
            .and_then(|()| fs::create_dir(&state))
            .and_then(|()| fs::set_permissions(&state, fs::Permissions::from_mode(0o700)))
            .and_then(|()| chown(&state, Some(UID), Some(UID)));
        owned.map_err(|error| format!("no directory of uid {UID}: {error}"))?;
        Ok(Self {
            home,
            groups: groups()?,
        })
    }

    /// The one directory that it may write to.
    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Puts a program where uid 1000 may run it.
    pub fn install(&self, program: &str) -> String {
        let path = self.home.path().join("crabmesh");
        fs::copy(program, &path).expect("copied");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        path.display().to_string()
    }

    /// Goes before `ip netns exec`, which hides the control groups: memory and CPU.
    pub fn outer(&self) -> Vec<String> {
        let groups: Vec<String> = self
            .groups
            .iter()
            .map(|group| group.0.join("cgroup.procs").display().to_string())
            .collect();
        let script = "while [ \"$1\" != -- ]; do echo $$ > \"$1\" || exit 125; shift; done; shift; exec \"$@\"";
        [words(&["sh", "-c", script, "cage"]), groups, words(&["--"])].concat()
    }

    /// Goes behind it: the user, the capabilities, the file system.
    pub fn inner(&self) -> Vec<String> {
        let state = self.state().display().to_string();
        words(&[
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            CONFINE,
            "cage",
            &state,
        ])
    }

    /// The most memory that its processes ever held, in bytes, where the kernel counts it.
    pub fn peak_memory(&self) -> Option<u64> {
        let files = ["memory.max_usage_in_bytes", "memory.peak"];
        let mut counts = self
            .groups
            .iter()
            .flat_map(|group| files.map(|file| group.0.join(file)));
        counts.find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process was reaped by whoever ended it; the kernel needs a moment.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("{} is left behind", self.0.display());
    }
}

/// Groups inside our own, so that whatever bounds this test bounds them too.
fn groups() -> Result<Vec<Group>, String> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        let group = group(root, "")?;
        limit(&group, "memory.max", MEMORY)?;
        limit(&group, "cpu.max", "25000 100000")?;
        return Ok(vec![group]);
    }
    let memory = group(&root.join("memory"), "memory")?;
    limit(&memory, "memory.limit_in_bytes", MEMORY)?;
    let cpu = group(&root.join("cpu"), "cpu")?;
    limit(&cpu, "cpu.cfs_period_us", "100000")?;
    limit(&cpu, "cpu.cfs_quota_us", "25000")?;
    Ok(vec![memory, cpu])
}

fn group(hierarchy: &Path, controller: &str) -> Result<Group, String> {
    let mine = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mine = mine.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let mine = mine
        .filter(|(names, _)| names.split(',').any(|name| name == controller))
        .map(|(_, path)| path)
        .next();
    let inside = hierarchy.join(mine.unwrap_or("/").trim_start_matches('/'));
    let parent = if inside.exists() {
        inside
    } else {
        hierarchy.to_owned()
    };
    let path = parent.join(format!("crabmesh-test-{}", std::process::id()));
    match fs::create_dir(&path) {
        Ok(()) => Ok(Group(path)),
        Err(error) => Err(format!("no control group {}: {error}", path.display())),
    }
}

fn limit(group: &Group, file: &str, value: &str) -> Result<(), String> {
    fs::write(group.0.join(file), value)
        .map_err(|error| format!("no {file} in {}: {error}", group.0.display()))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Of the user in the container recipe.
pub const UID: u32 = 1000;

/// 256 MB.
const MEMORY: &str = "268435456";

/// In a mount namespace of its own. What cannot be made read-only (a mount that is not ours to
/// change) is found by the test, which tries to write.
const CONFINE: &str = r#"
state=$1; shift
mount --bind "$state" "$state" || exit 125
while read -r _ at _; do
  case $at in
    "$state"|/proc|/proc/*|/sys|/sys/*|/run/netns/*) ;;
    *) mount -o remount,bind,ro "$at" 2>/dev/null ;;
  esac
done < /proc/self/mounts
cd "$state" || exit 125
exec setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all --ambient-caps=-all \
  --bounding-set=-all --no-new-privs -- "$@"
"#;
