//! Where and with what it was measured.

use std::fs;

use serde_json::{Value, json};

/// The machine and the build, as far as this process can see them.
pub fn environment() -> Value {
    let system = rustix::system::uname();
    json!({
        "machine": machine(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_mib": memory_mib(),
        "kernel": format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy()),
        "arch": std::env::consts::ARCH,
        "cpu_features": cpu_features(),
        "commit": env!("BFT_BENCH_COMMIT"),
        "rustc": env!("BFT_BENCH_RUSTC"),
        "profile": env!("BFT_BENCH_PROFILE"),
        "rustflags": env!("BFT_BENCH_RUSTFLAGS"),
        "allocator": if cfg!(feature = "mimalloc") { "mimalloc" } else { "system" },
    })
}

fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    line.and_then(|line| line.split_once(':')).map_or_else(|| "unknown".into(), |(_, name)| name.trim().into())
}

fn memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Those that cryptography makes use of.
fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    for (name, is_there) in [
        ("aes", is_x86_feature_detected!("aes")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512ifma", is_x86_feature_detected!("avx512ifma")),
        ("vaes", is_x86_feature_detected!("vaes")),
    ] {
        if is_there {
            found.push(name);
        }
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_known_is_known() {
        let environment = environment();
        assert!(environment["cores"].as_u64().unwrap() >= 1);
        assert!(environment["memory_mib"].as_u64().unwrap() > 64);
        assert!(environment["kernel"].as_str().unwrap().starts_with("Linux "));
        assert!(environment["rustc"].as_str().unwrap().starts_with("rustc "));
    }
}
