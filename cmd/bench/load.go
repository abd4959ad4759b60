// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

// transitions are what a connection makes that ends in order, both ends together, TIME_WAIT's own end aside.
const transitions = 10

const (
	loadThreads = 2
	loadPorts   = 8 // of the server, for each thread: one has room for some 28,000 TIME_WAIT
)

// loaded is what a load has done, as its process writes it.
type loaded struct {
	Connections int
	Wall        time.Duration
	CPU         time.Duration // of all its threads, with the softirqs that ran on top of them
}

// loadProcess makes connections in a netns of its own, as fast as two threads can, tells what it took, and keeps the
// netns until stdin ends: taking it down is work for tracers, too, and not to be measured.
func loadProcess(connections int) error {
	ns, err := lab.NewNetNS()
	if err != nil {
		return err
	}
	defer ns.Close()
	// As on a host: the kernel decides when it acknowledges. And room for every TIME_WAIT.
	if err := ns.SetQuickACK(false); err != nil {
		return err
	}
	if err := ns.SetSysctl("net.ipv4.tcp_max_tw_buckets", "1000000"); err != nil {
		return err
	}
	begin, cpu := time.Now(), ownCPU()
	errs := make([]error, loadThreads)
	var group sync.WaitGroup
	for i := range loadThreads {
		group.Go(func() { errs[i] = ns.Do(func() error { return exchanges(connections / loadThreads) }) })
	}
	group.Wait()
	done := loaded{Connections: connections / loadThreads * loadThreads, Wall: time.Since(begin), CPU: ownCPU() - cpu}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(done); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// exchanges makes n connections, one after the other, with a byte in each direction, that the client closes first.
func exchanges(n int) error {
	var servers []*lab.Closer
	for range loadPorts {
		c, err := lab.NewCloser()
		if err != nil {
			return err
		}
		defer c.Close()
		servers = append(servers, c)
	}
	var one [1]byte
	for i := range n {
		client, server, err := servers[i%loadPorts].Pair()
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		for _, way := range [][2]int{{client, server}, {server, client}} {
			if _, err := unix.Write(way[0], one[:]); err != nil {
				return fmt.Errorf("connection %d: write: %w", i, err)
			}
			if _, err := unix.Read(way[1], one[:]); err != nil {
				return fmt.Errorf("connection %d: read: %w", i, err)
			}
		}
		if err := lab.CloseBoth(client, server); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return nil
}

// ownCPU is what this process has used, in ns, whatever the tick.
func ownCPU() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		panic(err) // every kernel has this clock
	}
	return time.Duration(t.Nano())
}
