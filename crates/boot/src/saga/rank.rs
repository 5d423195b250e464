//! Which boot goes first at the BMCs.

use super::{ASK_AGENT, AWAIT, BOOT_ONCE, DECIDE, EJECT, HTTP_BOOT, INSERT, SETTLE, SHUT_DOWN};
use crate::gate::Rank;
use crate::record::{Boot, POWER_ON, State};

/// Steps from the last one on: what a boot has left says who goes first.
const FROM_THE_END: [&str; 9] = [
    SETTLE, AWAIT, ASK_AGENT, POWER_ON, BOOT_ONCE, HTTP_BOOT, INSERT, EJECT, SHUT_DOWN,
];

/// A boot that is further along goes first; before those that have not begun comes what is to be cleaned up.
pub(super) fn rank(boot: &Boot) -> Rank {
    let step = match &boot.recovering {
        Some(recovering) => &recovering.step,
        None => &boot.step,
    };
    of_step(step, boot.state == State::Running)
}

fn of_step(step: &str, running: bool) -> Rank {
    let left = FROM_THE_END.iter().position(|known| *known == step);
    let left = left.filter(|_| running);
    let last = FROM_THE_END.len() + usize::from(step == DECIDE && running);
    Rank::Boot(u8::try_from(left.unwrap_or(last)).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::RELEASE;
    use super::*;

    #[test]
    fn users_then_boots_from_the_last_step_on_then_clean_ups_then_what_has_not_begun() {
        let order = [
            Rank::Asked,
            of_step(SETTLE, true),
            of_step(AWAIT, true),
            of_step(POWER_ON, true),
            of_step(BOOT_ONCE, true),
            of_step(INSERT, true),
            of_step(EJECT, true),
            of_step(SHUT_DOWN, true),
            // However far it had come.
            of_step(POWER_ON, false),
            of_step(DECIDE, true),
            Rank::Idle,
        ];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        for cleaning in [of_step(RELEASE, true), of_step(DECIDE, false)] {
            assert_eq!(cleaning, of_step(POWER_ON, false));
        }
    }
}
