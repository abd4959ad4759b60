// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

// Probes of what the kernel allows, by doing it with the programs that are used,
// loaded, attached and taken away again. nil means it works here and now; else
// the error wraps the errno of what refused.

// ProbeRing tries the BPF ring buffer (5.8).
func ProbeRing() error {
	if _, err := load(); err != nil { // lifts RLIMIT_MEMLOCK
		return err
	}
	return features.HaveMapType(ebpf.RingBuf)
}

// ProbeState tries the state tracepoint with socket storage and cookies (5.12).
func ProbeState(types *Types) error {
	return probe(types, "set_state", func(p *ebpf.Program) (link.Link, error) {
		return link.AttachTracing(link.TracingOptions{Program: p})
	})
}

// ProbeIterators tries the walk over all descriptors.
func ProbeIterators(types *Types) error {
	return probe(types, "holders", func(p *ebpf.Program) (link.Link, error) {
		return link.AttachIter(link.IterOptions{Program: p})
	})
}

// ProbeFexit tries fexit on inet_csk_accept.
func ProbeFexit(types *Types) error {
	name, err := acceptProgram(types)
	if err != nil {
		return err
	}
	return probe(types, name, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachTracing(link.TracingOptions{Program: p})
	})
}

// ProbeTimeWait tries the hooks for TIME_WAIT as New does, and gives the one chosen:
// without a Program if there is none, Why then says what refused.
func ProbeTimeWait(types *Types) Hook {
	none := Hook{Gives: GivesTimeWait}
	spec, err := load()
	if err != nil {
		none.Why = err.Error()
		return none
	}
	cfg := Config{Types: types}
	if err := configureTimeWait(spec, cfg); err != nil {
		none.Why = err.Error()
		return none
	}
	spec.Maps["events"].MaxEntries = 1 << 16 // nobody reads it
	maps := spec.Copy()
	keep(maps)
	coll, err := ebpf.NewCollectionWithOptions(maps, ebpf.CollectionOptions{Cache: types.cache})
	if err != nil {
		none.Why = plain("load", err).Error()
		return none
	}
	t := &Tracer{coll: coll}
	defer t.Close()
	t.attachTimeWait(spec, cfg)
	return t.hooks[0]
}

func probe(types *Types, program string, attach func(*ebpf.Program) (link.Link, error)) error {
	spec, err := load()
	if err != nil {
		return err
	}
	keep(spec, program)
	spec.Maps["events"].MaxEntries = 1 << 16 // nobody reads it
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: types.cache})
	if err != nil {
		return plain("load", err)
	}
	defer coll.Close()
	l, err := attach(coll.Programs[program])
	if err != nil {
		return plain("attach", err)
	}
	return l.Close()
}
