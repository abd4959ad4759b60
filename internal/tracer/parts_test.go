// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"afterfin/bpf"
)

// part is a small program that does one thing that set_state does, or all of them.
type part struct {
	name string
	hook string
	code func(maps map[string]*ebpf.Map) asm.Instructions
}

const stateHook = "inet_sock_set_state"

// The pieces leave r6, the context, alone; r7 is the socket.
func read88(map[string]*ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, -88), asm.Mov.Imm(asm.R2, 88), asm.Mov.Reg(asm.R3, asm.R7),
		asm.FnProbeReadKernel.Call(),
	}
}

func now(map[string]*ebpf.Map) asm.Instructions { return asm.Instructions{asm.FnKtimeGetNs.Call()} }

func storage(maps map[string]*ebpf.Map) asm.Instructions {
	const create = 1 // BPF_SK_STORAGE_GET_F_CREATE
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, maps["conns"].FD()), asm.Mov.Reg(asm.R2, asm.R7), asm.Mov.Imm(asm.R3, 0), asm.Mov.Imm(asm.R4, create),
		asm.FnSkStorageGet.Call(),
	}
}

// lookUp asks a map for a key that it has (an array) or has not (a hash of sockets).
func lookUp(name string, size asm.Size) func(map[string]*ebpf.Map) asm.Instructions {
	return func(maps map[string]*ebpf.Map) asm.Instructions {
		key := asm.Instructions{asm.Mov.Imm(asm.R8, 0), asm.StoreMem(asm.RFP, -8, asm.R8, asm.Word)}
		if size == asm.DWord {
			key = asm.Instructions{asm.StoreMem(asm.RFP, -8, asm.R7, asm.DWord)}
		}
		return append(key, asm.LoadMapPtr(asm.R1, maps[name].FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8), asm.FnMapLookupElem.Call())
	}
}

// record reserves a transition, fills it and submits it without a wake-up.
func record(maps map[string]*ebpf.Map) asm.Instructions {
	const size, noWakeup = recordBytes - 8, 1
	code := asm.Instructions{
		asm.LoadMapPtr(asm.R1, maps["events"].FD()), asm.Mov.Imm(asm.R2, size), asm.Mov.Imm(asm.R3, 0), asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "exit"), asm.Mov.Imm(asm.R8, 0),
	}
	for at := int16(0); at < size; at += 8 {
		code = append(code, asm.StoreMem(asm.R0, at, asm.R8, asm.DWord))
	}
	return append(code, asm.Mov.Reg(asm.R1, asm.R0), asm.Mov.Imm(asm.R2, noWakeup), asm.FnRingbufSubmit.Call())
}

func all(pieces ...func(map[string]*ebpf.Map) asm.Instructions) func(map[string]*ebpf.Map) asm.Instructions {
	return func(maps map[string]*ebpf.Map) (code asm.Instructions) {
		for _, piece := range pieces {
			code = append(code, piece(maps)...)
		}
		return code
	}
}

var parts = []part{
	{"empty", stateHook, all()},
	{"read 88 bytes", stateHook, read88},
	{"clock", stateHook, now},
	{"socket storage", stateHook, storage},
	{"miss in a hash", stateHook, lookUp("minis", asm.DWord)},
	{"record", stateHook, record},
	{"sum", stateHook, all(read88, now, lookUp("last", asm.Word), storage, record)},
	{"empty", "timer_start", all()},
	{"empty", "timer_cancel", all()},
}

// load makes the program, over maps of its own.
func (p *part) load(maps map[string]*ebpf.Map) (*ebpf.Program, link.Link, error) {
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1), asm.LoadMem(asm.R7, asm.R6, 0, asm.DWord)}
	code = append(code, p.code(maps)...)
	code = append(code, asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"), asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: p.hook, Instructions: code, License: "GPL",
	})
	if err != nil {
		return nil, nil, err
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	return prog, l, err
}

// mapsOfParts are of the same kinds and sizes as ours.
func mapsOfParts(t testing.TB) map[string]*ebpf.Map {
	spec, err := bpf.LoadAfterfin()
	if err != nil {
		t.Fatal(err)
	}
	maps := make(map[string]*ebpf.Map)
	for _, name := range []string{"conns", "minis", "last", "events"} {
		if maps[name], err = ebpf.NewMap(spec.Maps[name]); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { maps[name].Close() })
	}
	return maps
}
