//! Boots every resource tree of a folder and prints a row each; `cargo xtask trees` runs it.
//!
//! `trees SERVE FOLDER [OPTION]...`: the mock server, the trees, and options that make the mock server harder to get on
//! with (`--stale-eject 10`, `--fail 3:503`).

#[path = "../tests/sheet/mod.rs"]
mod sheet;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sheet::Outcome;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [serve, dir, more @ ..] = args.as_slice() else {
        eprintln!("trees SERVE FOLDER [OPTION]...");
        return ExitCode::FAILURE;
    };
    let more: Vec<String> = more.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    match all(serve, dir, &more).await {
        (0, _) => {
            eprintln!("error: no tree in {}", dir.display());
            ExitCode::FAILURE
        }
        (total, within) => {
            println!("{within} of {total} trees within their answer sheets");
            if within == total {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// How many there are, and how many of them are within their sheets.
async fn all(serve: &Path, dir: &Path, more: &[String]) -> (usize, usize) {
    let trees = sheet::trees(dir);
    let total = trees.len();
    let mut within = 0;
    // A few at once: the mock servers are slow rather than busy.
    for some in trees.chunks(4) {
        let mut running = Vec::new();
        for tree in some {
            let (serve, tree, more) = (serve.to_path_buf(), tree.clone(), more.to_vec());
            running.push(tokio::spawn(async move {
                let more: Vec<&str> = more.iter().map(String::as_str).collect();
                sheet::boot(&serve, &tree, &more).await
            }));
        }
        for (tree, run) in some.iter().zip(running) {
            let outcome = run.await.unwrap_or_else(|err| Outcome {
                name: tree.display().to_string(),
                differs: vec![err.to_string()],
                ..Outcome::default()
            });
            within += usize::from(outcome.differs.is_empty());
            row(&outcome);
        }
    }
    (total, within)
}

fn row(outcome: &Outcome) {
    let verdict = if outcome.differs.is_empty() {
        "within "
    } else {
        "DIFFERS"
    };
    println!("{verdict} {:44} {}", outcome.name, outcome.done);
    for difference in &outcome.differs {
        println!("        {difference}");
    }
}
