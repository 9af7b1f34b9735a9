//! The machine's plug: what a replica's disk is left with when the power goes at a point.

use super::{Crash, Machine, UnderWay};
use crate::points::{Moment, Operation, Plug, Point};
use crate::rng::Seed;
use crate::world::World;

impl Machine {
    /// The power of this machine goes at these points.
    pub fn plug_in(&mut self, points: &[Point]) {
        self.plug = Plug::at(points);
    }

    /// The machine's plug.
    #[must_use]
    pub fn plug(&self) -> &Plug {
        &self.plug
    }

    /// Acts on a plug that was pulled: the process and its power are gone. Says where it was; `None`: it was not.
    pub fn lose_power_where_pulled(&mut self, world: &mut World) -> Option<Point> {
        let point = self.plug.put_back()?;
        self.renew_fate(world);
        self.settle(point);
        let is_killed = matches!(point.moment, Moment::Cached | Moment::Failed);
        let crash = if is_killed { Crash::Killed } else { Crash::PowerLost };
        let ran = self.crash(world, crash);
        if !ran && crash == Crash::PowerLost {
            self.lose_power_while_down(world);
        }
        Some(point)
    }

    /// What chance leaves of writes is another matter at every instant: up to here all runs of a script have drawn the same.
    pub fn renew_fate(&mut self, world: &World) {
        let seed = Seed::root(world.options.seed).child("point").nth(self.node.0 as u64);
        self.fate = seed.nth(world.now).rng();
    }

    /// What is left of the write that the point is about. Of all other writes chance decides.
    fn settle(&mut self, point: Point) {
        let Some(process) = &mut self.process else { return };
        let struck = process.under_way.extract_if(.., |_, under_way| under_way.operation == point.operation);
        for (_, UnderWay { name, write, .. }) in struck {
            write.into_iter().for_each(|write| self.disk.strike(name, write, point.moment, &mut self.fate));
        }
        let (kind, _) = self.plug.log()[point.operation];
        match (kind, point.moment) {
            (Operation::Rename | Operation::AssemblyRename, Moment::Complete) => self.disk.flush_names(),
            (Operation::Rename | Operation::AssemblyRename, Moment::Lost) => self.disk.forget_names(),
            (_, _) => {}
        }
    }
}
