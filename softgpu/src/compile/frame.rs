//! Operands: which registers an instruction reads and writes.

use std::collections::HashMap;

use super::{Layout, Refusal, refuse};
use crate::machine::{Action, Core, Done, FULL, Guard, LANES, LaneMask, Mask, Preset, Raw, Slot, Step, Value};
use crate::ptx::{Function, Operand, Space, VariableId, Width};

/// Registers of the kernel and all of its functions.
#[derive(Default)]
pub struct Slots {
    pub slots: usize,
    pub predicates: usize,
    pub presets: HashMap<Preset, Slot>,
}

impl Slots {
    pub fn fresh(&mut self, slots: usize) -> Slot {
        // 64-bit registers start at even slots, so that they are aligned like lanes of 64 bits.
        let start = self.slots.next_multiple_of(slots.max(1));
        self.slots = start + slots;
        start
    }

    pub fn preset(&mut self, preset: Preset) -> Slot {
        if let Some(&slot) = self.presets.get(&preset) {
            return slot;
        }
        let slot = self.fresh(if matches!(preset, Preset::Bits { wide: true, .. }) { 2 } else { 1 });
        self.presets.insert(preset, slot);
        slot
    }
}

/// The function that is being lowered.
pub struct Frame<'a> {
    pub function: &'a Function,
    /// Slot, or number of the predicate, of each register.
    pub places: Vec<usize>,
    /// Where each variable of the function lies in its space.
    pub variables: Vec<u64>,
    pub slots: &'a mut Slots,
    pub layout: &'a Layout<'a>,
    /// Steps that prepare operands of the instruction being lowered.
    pub prelude: Vec<Step>,
    /// Steps that come after it: results of a call.
    pub epilogue: Vec<Step>,
}

impl Frame<'_> {
    fn width(&self, register: usize) -> Width {
        self.function.registers[register]
    }

    /// Exactly so many operands.
    pub fn expect(&self, operands: &[Operand], counts: std::ops::RangeInclusive<usize>) -> Result<(), Refusal> {
        match counts.contains(&operands.len()) {
            true => Ok(()),
            false => refuse(format!("{} operands, expected {counts:?}", operands.len())),
        }
    }

    /// Register or constant with a value of this type in it.
    pub fn source<T: Value>(&mut self, operand: &Operand) -> Result<Slot, Refusal> {
        let wide = T::Raw::SLOTS == 2;
        match operand {
            Operand::Register(register) => self.source_register(*register, wide),
            Operand::Special(name) => {
                let slot = self.special(name)?;
                Ok(if wide { self.widened(slot) } else { slot })
            }
            Operand::Variable(id, offset) => {
                let bits = self.address(*id)?.1.wrapping_add(*offset as u64);
                Ok(self.slots.preset(Preset::Bits { bits, wide }))
            }
            literal => match T::literal(literal) {
                Some(bits) => {
                    let bits = T::Raw::from_bits(bits).bits();
                    let bits = T::get(T::Raw::from_bits(bits)).put().bits();
                    Ok(self.slots.preset(Preset::Bits { bits, wide }))
                }
                None => refuse(format!("{literal:?} is no operand of this type")),
            },
        }
    }

    fn source_register(&mut self, register: usize, wide: bool) -> Result<Slot, Refusal> {
        let place = self.places[register];
        match (self.width(register), wide) {
            (Width::Half | Width::Word, false) | (Width::Double, true) => Ok(place),
            // Stores and conversions may take a wider register than their type.
            (Width::Double, false) => {
                let narrow = self.slots.fresh(1);
                self.prelude.push(Box::new(move |core, mask| {
                    let low = core.warp.registers.view::<u64>(place).map(|x| x as u32);
                    core.warp.registers.write(narrow, mask, &low);
                    Ok(())
                }));
                Ok(narrow)
            }
            _ => refuse("a register of another width is needed"),
        }
    }

    fn widened(&mut self, slot: Slot) -> Slot {
        let wide = self.slots.fresh(2);
        self.prelude.push(Box::new(move |core, mask| {
            let values = core.warp.registers.view::<u32>(slot).map(u64::from);
            core.warp.registers.write(wide, mask, &values);
            Ok(())
        }));
        wide
    }

    /// Register that takes a value of this type; one of its own for `_`.
    pub fn target<R: Raw>(&mut self, operand: &Operand) -> Result<Slot, Refusal> {
        match operand {
            Operand::Sink => Ok(self.slots.fresh(R::SLOTS)),
            Operand::Register(register) => match (self.width(*register), R::SLOTS) {
                (Width::Half | Width::Word, 1) | (Width::Double, 2) => Ok(self.places[*register]),
                _ => refuse("a destination of another width is needed"),
            },
            _ => refuse("the destination must be a register"),
        }
    }

    pub fn target_is_wide(&self, operand: &Operand) -> bool {
        matches!(operand, Operand::Register(register) if self.width(*register) == Width::Double)
    }

    pub fn is_predicate(&self, operand: &Operand) -> bool {
        matches!(operand, Operand::Register(r) | Operand::Not(r) if self.width(*r) == Width::Pred)
    }

    /// A predicate, perhaps negated, or a constant one.
    pub fn predicate(&self, operand: &Operand) -> Result<Guard, Refusal> {
        match operand {
            Operand::Register(r) if self.width(*r) == Width::Pred => Ok(Guard { predicate: self.places[*r], flip: 0 }),
            Operand::Not(r) if self.width(*r) == Width::Pred => Ok(Guard { predicate: self.places[*r], flip: FULL }),
            Operand::Int(i) => Ok(Guard { predicate: 0, flip: if *i == 0 { FULL } else { 0 } }),
            _ => refuse("a predicate is needed"),
        }
    }

    pub fn predicate_target(&mut self, operand: &Operand) -> Result<usize, Refusal> {
        match operand {
            Operand::Register(r) if self.width(*r) == Width::Pred => Ok(self.places[*r]),
            Operand::Sink => {
                self.slots.predicates += 1;
                Ok(self.slots.predicates - 1)
            }
            _ => refuse("the destination must be a predicate"),
        }
    }

    /// Space and address of a variable: absolute, or an offset into shared, local or parameter memory.
    pub fn address(&self, id: VariableId) -> Result<(Space, u64), Refusal> {
        match id {
            VariableId::Function(number) => Ok((self.function.variables[number].space, self.variables[number])),
            VariableId::Module(number) => match self.layout.addresses.get(&number) {
                Some(&address) => Ok((self.layout.source.variables[number].space, address)),
                None => refuse(format!("{} is not defined here", self.layout.source.variables[number].name)),
            },
        }
    }

    /// Whether a variable is a parameter of a kernel, not of a function.
    pub fn is_kernel_param(&self, id: VariableId) -> bool {
        matches!(id, VariableId::Function(number) if self.function.entry && self.function.params.contains(&number))
    }

    fn special(&mut self, name: &str) -> Result<Slot, Refusal> {
        let axis = |name: &str| match name.rsplit_once('.').map(|(_, axis)| axis) {
            Some("x") => Some(0),
            Some("y") => Some(1),
            Some("z") => Some(2),
            _ => None,
        };
        let by_axis = |make: fn(usize) -> Preset| axis(name).map(make);
        let preset = match name.split('.').next().unwrap_or("") {
            "%tid" => by_axis(Preset::ThreadIndex),
            "%ctaid" => by_axis(Preset::BlockIndex),
            "%ntid" => by_axis(Preset::BlockSize),
            "%nctaid" => by_axis(Preset::GridSize),
            "%laneid" => Some(Preset::Lane),
            "%warpid" => Some(Preset::Warp),
            "%nwarpid" => Some(Preset::Warps),
            "%smid" => Some(Preset::Multiprocessor),
            "%nsmid" => Some(Preset::Multiprocessors),
            "%gridid" => Some(Preset::GridId),
            "%lanemask_eq" => Some(Preset::LaneMask(LaneMask::Equal)),
            "%lanemask_le" => Some(Preset::LaneMask(LaneMask::LessEqual)),
            "%lanemask_lt" => Some(Preset::LaneMask(LaneMask::Less)),
            "%lanemask_ge" => Some(Preset::LaneMask(LaneMask::GreaterEqual)),
            "%lanemask_gt" => Some(Preset::LaneMask(LaneMask::Greater)),
            "%total_smem_size" => Some(Preset::SharedBytes),
            "%dynamic_smem_size" => Some(Preset::DynamicSharedBytes),
            "%clock" | "%clock_hi" | "%clock64" | "%globaltimer" | "%globaltimer_lo" => {
                return Ok(self.clock());
            }
            _ => None,
        };
        match preset {
            Some(preset) => Ok(self.slots.preset(preset)),
            None => refuse(format!("{name} is no known register")),
        }
    }

    /// Instructions that the block has executed in memory: only good for being different each time.
    fn clock(&mut self) -> Slot {
        let slot = self.slots.fresh(1);
        self.prelude.push(Box::new(move |core, mask| {
            let now = core.tick();
            core.warp.registers.write(slot, mask, &[now; LANES]);
            Ok(())
        }));
        slot
    }

    /// d = f(a)
    pub fn map1<A: Value, D: Value>(
        &mut self,
        operands: &[Operand],
        f: impl Fn(A) -> D + Send + Sync + 'static,
    ) -> Result<Action, Refusal> {
        self.expect(operands, 2..=2)?;
        let (d, a) = (self.target::<D::Raw>(&operands[0])?, self.source::<A>(&operands[1])?);
        Ok(step(move |core, mask| {
            let registers = &mut core.warp.registers;
            let a = registers.view::<A::Raw>(a);
            let mut out = [D::Raw::default(); LANES];
            for lane in 0..LANES {
                out[lane] = f(A::get(a[lane])).put();
            }
            registers.write(d, mask, &out);
            Ok(())
        }))
    }

    /// d = f(a, b)
    pub fn map2<A: Value, B: Value, D: Value>(
        &mut self,
        operands: &[Operand],
        f: impl Fn(A, B) -> D + Send + Sync + 'static,
    ) -> Result<Action, Refusal> {
        self.expect(operands, 3..=3)?;
        let d = self.target::<D::Raw>(&operands[0])?;
        let (a, b) = (self.source::<A>(&operands[1])?, self.source::<B>(&operands[2])?);
        Ok(step(move |core, mask| {
            let registers = &mut core.warp.registers;
            let (a, b) = (registers.view::<A::Raw>(a), registers.view::<B::Raw>(b));
            let mut out = [D::Raw::default(); LANES];
            for lane in 0..LANES {
                out[lane] = f(A::get(a[lane]), B::get(b[lane])).put();
            }
            registers.write(d, mask, &out);
            Ok(())
        }))
    }

    /// d = f(a, b, c)
    pub fn map3<A: Value, B: Value, C: Value, D: Value>(
        &mut self,
        operands: &[Operand],
        f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
    ) -> Result<Action, Refusal> {
        self.expect(operands, 4..=4)?;
        let d = self.target::<D::Raw>(&operands[0])?;
        let (a, b) = (self.source::<A>(&operands[1])?, self.source::<B>(&operands[2])?);
        let c = self.source::<C>(&operands[3])?;
        Ok(step(move |core, mask| {
            let registers = &mut core.warp.registers;
            let (a, b) = (registers.view::<A::Raw>(a), registers.view::<B::Raw>(b));
            let c = registers.view::<C::Raw>(c);
            let mut out = [D::Raw::default(); LANES];
            for lane in 0..LANES {
                out[lane] = f(A::get(a[lane]), B::get(b[lane]), C::get(c[lane])).put();
            }
            registers.write(d, mask, &out);
            Ok(())
        }))
    }
}

pub fn step(f: impl Fn(&mut Core<'_>, Mask) -> Done + Send + Sync + 'static) -> Action {
    Action::Step(Box::new(f))
}
