// SPDX-License-Identifier: Apache-2.0

// Package tracer loads the BPF programs, chooses the hooks this kernel allows,
// reads the ring and counts what was lost. Beside the generated package bpf it
// alone knows cilium/ebpf.
package tracer

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"afterfin/bpf"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// ErrClosed is returned by Read after Close.
var ErrClosed = errors.New("tracer is closed")

// Config says what to trace. The zero value traces every TCP socket.
type Config struct {
	Filter event.Filter

	// ExactOwner arms tp_btf/sys_exit where fexit is refused, so that accept() is
	// seen. It costs every system call of every process; measure with CallCost.
	ExactOwner bool

	// NoTimeWait leaves out TIME_WAIT: no fentry, no timer tracepoints. Then the
	// rows of a connection end where its socket does, with FIN_WAIT2→CLOSE.
	NoTimeWait bool

	// TimeWaitLength is what this kernel sets the timer of a TIME_WAIT to; 0: not known. By it
	// the timers of those older than the tracer tell how long they last at least.
	TimeWaitLength time.Duration

	// Sites: have the stack of each connect() and, where fexit loads, accept() kept, and
	// told (Tracer.Sites) when the socket comes to one of these states or its connection
	// dies. With TIME_WAIT it is told when the mini-socket takes over.
	Sites tcp.StateSet

	// Deep: Arm works, or New gives ErrNoRegisters. Takes Sites.
	Deep bool

	// Counts: count what becomes of TIME_WAIT (Tracer.StartCounting), and tell no rows but those
	// from and to the states of Rows. Filter.PIDs, Filter.Comm and Filter.States do not go with
	// it: they would leave some uncounted, or count what nobody is known to own.
	Counts bool
	Rows   tcp.StateSet

	// Timers: Tracer.Timers works.
	Timers bool

	// Ports: Tracer.Ports, BoundPorts and Callers work. Takes Counts.
	Ports bool

	// Types may be shared with other tracers; nil: parsed for this one, and dropped.
	Types *Types
}

// What a Hook gives.
const (
	GivesState    = "state"
	GivesAccept   = "accept"
	GivesTimeWait = "TIME_WAIT"
)

// Hook is one thing the tracer attached, or could not.
type Hook struct {
	Gives   string // GivesState, GivesAccept, GivesTimeWait
	Program string // "tp_btf/inet_sock_set_state"; empty if there is none
	Why     string // why Program is not the better one, or empty
	Err     error  // of GivesTimeWait: what keeps it from being tried, ErrHidden perhaps
}

// Tracer is the attached kernel side. Read must be called by one goroutine; the
// other methods may be called by any.
type Tracer struct {
	coll   *ebpf.Collection
	accept *ebpf.Collection // nil where fexit is refused
	links  []link.Link
	ring   *ringbuf.Reader
	record ringbuf.Record
	hooks  []Hook

	holders, sockets, moves, timers, ports, bound *link.Iter // also in links

	timewait      *ebpf.Collection // nil where TIME_WAIT is not seen
	looksForMoves bool

	sites     []event.Site // read, and not taken yet
	stacks    map[uint64][]uint64
	deep      *deep // nil: Arm does not work
	undecoded uint64
	records   uint64 // that came through the ring

	empty int         // reads in a row that found nothing
	busy  atomic.Bool // LookForMoves must go on
}

// New loads and attaches. Rows begin to gather in the ring at once. Errors name
// the program and wrap the errno (unix.EPERM without CAP_BPF and CAP_PERFMON).
// The caller closes the Tracer.
func New(cfg Config) (*Tracer, error) {
	if cfg.Types == nil {
		cfg.Types = NewTypes()
	}
	if !cfg.NoTimeWait {
		go func() { _, _ = cfg.Types.culprits() }() // takes as long as the rest; attachTimeWait waits for it
	}
	spec, err := load()
	if err != nil {
		return nil, err
	}
	if cfg.Deep {
		if err := canDeep(cfg.Types); err != nil {
			return nil, err
		}
	}
	if err := configure(spec, cfg); err != nil {
		return nil, err
	}
	if err := configureTimeWait(spec, cfg); err != nil {
		return nil, err
	}
	base := spec.Copy()
	programs := []string{"set_state", "set_state_skipped", "holders", "tcp_sockets", "moves"}
	if cfg.Timers {
		programs = append(programs, "timers")
	}
	if cfg.Ports {
		programs = append(programs, "ports", "bound_ports")
	}
	keep(base, programs...)
	coll, err := ebpf.NewCollectionWithOptions(base, ebpf.CollectionOptions{Cache: cfg.Types.cache})
	if err != nil {
		return nil, plain("load", err)
	}
	t := &Tracer{coll: coll}
	if err := t.attach(spec, cfg); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Tracer) attach(spec *ebpf.CollectionSpec, cfg Config) error {
	var err error
	if t.ring, err = ringbuf.NewReader(t.coll.Maps["events"]); err != nil {
		return plain("open ring", err)
	}
	for name, it := range map[string]**link.Iter{
		"holders": &t.holders, "tcp_sockets": &t.sockets, "timers": &t.timers, "ports": &t.ports, "bound_ports": &t.bound,
	} {
		if t.coll.Programs[name] == nil { // not asked for
			continue
		}
		if *it, err = link.AttachIter(link.IterOptions{Program: t.coll.Programs[name]}); err != nil {
			return plain("attach "+name, err)
		}
		t.links = append(t.links, *it)
	}
	if t.moves, err = link.AttachIter(link.IterOptions{Program: t.coll.Programs["moves"], Map: t.coll.Maps["halfway"]}); err != nil {
		return plain("attach moves", err)
	}
	t.links = append(t.links, t.moves)
	if err := t.attachAccept(spec, cfg); err != nil {
		return err
	}
	if cfg.Deep {
		if err := t.openDeep(spec, cfg.Types); err != nil {
			return err
		}
	}
	// Before the state tracepoint: a mini-socket is there before its socket closes.
	t.attachTimeWait(spec, cfg)
	for _, name := range []string{"set_state", "set_state_skipped"} { // in this order
		if err := t.hold(link.AttachTracing(link.TracingOptions{Program: t.coll.Programs[name]})); err != nil {
			return plain("attach "+name, err)
		}
	}
	t.hooks = append([]Hook{{Gives: GivesState, Program: "tp_btf/inet_sock_set_state"}}, t.hooks...)
	return nil
}

func (t *Tracer) hold(l link.Link, err error) error {
	if err == nil {
		t.links = append(t.links, l)
	}
	return err
}

// configure writes the knobs of bpf/config.h.
func configure(spec *ebpf.CollectionSpec, cfg Config) error {
	f := cfg.Filter
	if len(f.PIDs) > event.MaxPIDs || len(f.LocalPorts) > event.MaxPorts || len(f.RemotePorts) > event.MaxPorts {
		return fmt.Errorf("filter takes %d pids and %d ports at most", event.MaxPIDs, event.MaxPorts)
	}
	var pids [event.MaxPIDs]uint32
	var lports, rports [event.MaxPorts]uint16
	var comm event.Comm
	copy(pids[:], f.PIDs)
	copy(lports[:], f.LocalPorts)
	copy(rports[:], f.RemotePorts)
	copy(comm[:len(comm)-1], f.Comm)

	spec.Maps["events"].MaxEntries = RingBytes
	if cfg.Counts && cfg.Rows == 0 {
		spec.Maps["events"].MaxEntries = uint32(os.Getpagesize())
	}
	if !cfg.Counts {
		for _, name := range []string{"tallies", "histograms", "makers", "peers"} {
			spec.Maps[name].MaxEntries = 1
		}
	}
	if !cfg.Ports {
		spec.Maps["callers"].MaxEntries = 1
	}
	if cfg.NoTimeWait {
		spec.Maps["minis"].MaxEntries, spec.Maps["halfway"].MaxEntries = 1, 1
	}
	if cfg.ExactOwner {
		spec.Maps["by_cookie"].MaxEntries = 1 << 20
	}
	if cfg.Sites == 0 {
		spec.Maps["stacks"].MaxEntries = 1
	}
	if cfg.Deep {
		spec.Maps["slices"].MaxEntries = sliceRingBytes
	}
	rows := ^uint32(0)
	if cfg.Counts {
		rows = uint32(cfg.Rows)
	}
	for name, value := range map[string]any{
		"wakeup_bytes": uint64(RingBytes / 4),
		"exact_owner":  cfg.ExactOwner,
		"want_pids":    pids, "want_pids_n": uint32(len(f.PIDs)),
		"want_lports": lports, "want_lports_n": uint32(len(f.LocalPorts)),
		"want_rports": rports, "want_rports_n": uint32(len(f.RemotePorts)),
		"want_netns":  f.NetNS,
		"want_states": uint32(f.States), "want_died_open": f.DiedOpen,
		"want_family": f.Family,
		"want_comm":   comm,
		"want_sites":  uint32(cfg.Sites),
		"want_slices": cfg.Deep,
		"want_counts": cfg.Counts,
		"want_ports":  cfg.Ports,
		"want_rows":   rows,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// load reads the embedded objects. Before 5.11 maps count against
// RLIMIT_MEMLOCK: lifted, so that such a kernel says what it really lacks.
func load() (*ebpf.CollectionSpec, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift RLIMIT_MEMLOCK: %w", err)
	}
	return bpf.LoadAfterfin()
}

func keep(spec *ebpf.CollectionSpec, programs ...string) {
	kept := make(map[string]*ebpf.ProgramSpec)
	for _, name := range programs {
		kept[name] = spec.Programs[name]
	}
	spec.Programs = kept
}

// plain drops what cilium/ebpf adds to an EPERM ("MEMLOCK may be too low"): that
// limit is lifted, so it is a capability or the kernel's policy.
func plain(what string, err error) error {
	if errors.Is(err, unix.EPERM) {
		err = unix.EPERM
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Hooks tells what is attached, and why not better.
func (t *Tracer) Hooks() []Hook { return t.hooks }

// Close detaches everything. Even without it nothing stays attached once the
// process is gone: links live as long as their descriptors.
func (t *Tracer) Close() error {
	var errs []error
	for _, l := range t.links {
		errs = append(errs, l.Close())
	}
	if t.ring != nil {
		errs = append(errs, t.ring.Close())
	}
	if t.accept != nil {
		t.accept.Close()
	}
	if t.deep != nil {
		errs = append(errs, t.deep.close())
	}
	if t.timewait != nil {
		t.timewait.Close()
	}
	t.coll.Close()
	return errors.Join(errs...)
}
