// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attachAccept chooses how accept() is seen: fexit where it loads and attaches
// (some kernels load it and refuse the attach), else tp_btf/sys_exit if asked
// for, else not at all.
func (t *Tracer) attachAccept(spec *ebpf.CollectionSpec, cfg Config) error {
	refused := t.attachFexit(spec, cfg.Types)
	if refused == nil {
		t.hooks = append(t.hooks, Hook{Gives: GivesAccept, Program: "fexit/inet_csk_accept"})
		return nil
	}
	hook := Hook{Gives: GivesAccept, Why: "fexit: " + refused.Error()}
	if cfg.ExactOwner {
		if err := t.attachSysExit(spec, cfg.Types); err != nil {
			return err
		}
		hook.Program = "tp_btf/sys_exit"
	}
	t.hooks = append(t.hooks, hook)
	return nil
}

func (t *Tracer) attachFexit(spec *ebpf.CollectionSpec, types *Types) error {
	name, err := acceptProgram(types)
	if err != nil {
		return err
	}
	coll, err := t.loadMore(spec, types, name)
	if err != nil {
		return err
	}
	if err := t.hold(link.AttachTracing(link.TracingOptions{Program: coll.Programs[name]})); err != nil {
		coll.Close()
		return plain("attach", err)
	}
	t.accept = coll
	return nil
}

func (t *Tracer) attachSysExit(spec *ebpf.CollectionSpec, types *Types) error {
	coll, err := t.loadMore(spec, types, "sys_exit")
	if err != nil {
		return fmt.Errorf("--exact-owner: %w", err)
	}
	t.accept = coll
	if err := t.hold(link.AttachTracing(link.TracingOptions{Program: coll.Programs["sys_exit"]})); err != nil {
		return plain("--exact-owner: attach sys_exit", err)
	}
	return nil
}

// Accepts tells whether accept() is seen by all processes.
func (t *Tracer) Accepts() bool { return t.accept != nil }

// TaxesCalls tells whether every system call of the host pays for ExactOwner.
func (t *Tracer) TaxesCalls() bool {
	return t.accept != nil && t.accept.Programs["sys_exit"] != nil
}

// loadMore loads more programs over the maps that are there.
func (t *Tracer) loadMore(spec *ebpf.CollectionSpec, types *Types, names ...string) (*ebpf.Collection, error) {
	more := spec.Copy()
	keep(more, names...)
	for m := range more.Maps {
		if t.coll.Maps[m] == nil {
			delete(more.Maps, m)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(more, ebpf.CollectionOptions{MapReplacements: t.coll.Maps, Cache: types.cache})
	if err != nil {
		return nil, plain("load", err)
	}
	return coll, nil
}

// acceptProgram picks the program with as many arguments as inet_csk_accept()
// has here: with another number fexit is refused at best, and at worst gives
// garbage for the result.
func acceptProgram(types *Types) (string, error) {
	kernel, err := types.cache.Kernel()
	if err != nil {
		return "", err
	}
	var fn *btf.Func
	if err := kernel.TypeByName("inet_csk_accept", &fn); err != nil {
		return "", err
	}
	switch n := len(fn.Type.(*btf.FuncProto).Params); n {
	case 4:
		return "accept_args4", nil
	case 2:
		return "accept_args2", nil
	default:
		return "", fmt.Errorf("inet_csk_accept has %d arguments: %w", n, ebpf.ErrNotSupported)
	}
}

// CallCost measures what one cheap system call (getppid) takes now: the tax of
// an armed tp_btf/sys_exit is the difference of two of these. It takes about 20 ms
// and gives the fastest of several rounds, since anything else on the CPU only
// adds.
func CallCost() time.Duration {
	const rounds, calls = 10, 10_000
	best := time.Duration(1 << 62)
	for range rounds {
		begin := time.Now()
		for range calls {
			_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		}
		best = min(best, time.Since(begin)/calls)
	}
	return best
}
