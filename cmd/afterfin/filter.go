// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/netns"
	"afterfin/internal/tcp"
)

// filterFlags are the filters as typed; the letters are those of bcc.
type filterFlags struct {
	pids, lports, rports string
	states, netns, comm  string
	v4, v6               bool
}

func (f *filterFlags) register(flags *pflag.FlagSet) {
	f.registerNetwork(flags)
	flags.StringVarP(&f.pids, "pid", "p", "", "only sockets owned by these processes, e.g. 4121,4122")
	flags.StringVar(&f.states, "state", "", "only changes from or to these states, e.g. close-wait,LAST_ACK")
	flags.StringVar(&f.comm, "comm", "", "only sockets of processes with this name")
}

// registerNetwork registers those that say nothing about the owner or the state.
func (f *filterFlags) registerNetwork(flags *pflag.FlagSet) {
	f.registerDestination(flags)
	flags.StringVarP(&f.lports, "lport", "L", "", "only these local ports, e.g. 80,443")
}

// registerDestination registers those that are about where a connection goes.
func (f *filterFlags) registerDestination(flags *pflag.FlagSet) {
	flags.StringVarP(&f.rports, "rport", "D", "", "only these remote ports")
	flags.BoolVarP(&f.v4, "ipv4", "4", false, "only IPv4 (v4-mapped included)")
	flags.BoolVarP(&f.v6, "ipv6", "6", false, "only IPv6")
	f.registerNetNS(flags)
}

func (f *filterFlags) registerNetNS(flags *pflag.FlagSet) {
	flags.StringVar(&f.netns, "netns", "", "only this network namespace: inode number, path, or name as in ip netns")
}

// parse checks everything before anything is attached. Errors are usage errors.
func (f *filterFlags) parse() (feed.Config, error) {
	var cfg feed.Config
	pids, err := numbers("--pid", f.pids, event.MaxPIDs, math.MaxInt32)
	if err != nil {
		return cfg, err
	}
	cfg.Filter.PIDs = pids
	if cfg.Filter.LocalPorts, err = portList("--lport", f.lports); err != nil {
		return cfg, err
	}
	if cfg.Filter.RemotePorts, err = portList("--rport", f.rports); err != nil {
		return cfg, err
	}
	switch {
	case f.v4 && f.v6:
		return cfg, usage("-4 and -6 exclude each other")
	case f.v4:
		cfg.Filter.Family = 4
	case f.v6:
		cfg.Filter.Family = 6
	}
	for _, text := range split(f.states) {
		s, err := tcp.ParseState(text)
		if err != nil {
			return cfg, usage("--state: %w", err)
		}
		cfg.Filter.States.Add(s)
	}
	if len(f.comm) >= len(event.Comm{}) {
		return cfg, usage("--comm: %q is longer than the kernel's %d characters", f.comm, len(event.Comm{})-1)
	}
	cfg.Filter.Comm = f.comm
	if f.netns != "" {
		ns, err := netns.Resolve(f.netns)
		if err != nil {
			return cfg, usage("--netns: %w", err)
		}
		if err := netns.Do(ns, func() error { return nil }); err != nil {
			return cfg, usage("--netns: %w", err)
		}
		cfg.Filter.NetNS, cfg.NetNSPath = ns.Inode, ns.Path
	}
	return cfg, nil
}

// split gives the parts of a comma list, none for an empty one.
func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func portList(flag, list string) ([]uint16, error) {
	wide, err := numbers(flag, list, event.MaxPorts, math.MaxUint16)
	var ports []uint16
	for _, n := range wide {
		ports = append(ports, uint16(n))
	}
	return ports, err
}

func numbers(flag, list string, most int, limit uint64) ([]uint32, error) {
	var out []uint32
	for _, text := range split(list) {
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
		if err != nil || n == 0 || n > limit {
			return nil, usage("%s: %q is not a number from 1 to %d", flag, text, limit)
		}
		out = append(out, uint32(n))
	}
	if len(out) > most {
		return nil, usage("%s: %d numbers, at most %d fit", flag, len(out), most)
	}
	return out, nil
}
