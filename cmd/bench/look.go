// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// lookTable compares one look at many sockets in TIME_WAIT.
func (o *options) lookTable(w, progress io.Writer) error {
	const sockets = 100_000
	fmt.Fprintf(progress, "a look at %d sockets\n", sockets)
	l, err := startLoad(plan{Kind: "client", Connections: sockets})
	if err != nil {
		return err
	}
	defer l.kill()
	if _, err := l.run(); err != nil {
		return err
	}
	ways := []struct {
		name string
		args []string
		took []float64 // ms of CPU
	}{
		{name: "`timewait --sample 0`", args: []string{o.program, "timewait", "--sample", "0", "--netns", l.netns}},
		{name: "`ss -tan state time-wait`", args: []string{"nsenter", "--net=" + l.netns, "ss", "-tan", "state", "time-wait"}},
		{name: "`cat /proc/net/tcp`", args: []string{"nsenter", "--net=" + l.netns, "cat", "/proc/thread-self/net/tcp"}},
	}
	for range o.rounds {
		for i := range ways {
			cmd := exec.Command(ways[i].args[0], ways[i].args[1:]...)
			cmd.Stderr = os.Stderr
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%s: %w", strings.Join(ways[i].args, " "), err)
			}
			ways[i].took = append(ways[i].took, float64((cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()).Microseconds())/1e3)
		}
	}
	fmt.Fprintf(w, "\n### One look at %d sockets in TIME_WAIT\n\n| to /dev/null | CPU, ms |\n|---|---:|\n", sockets)
	for _, way := range ways {
		fmt.Fprintf(w, "| %s | %s |\n", way.name, summarize(way.took).text("%.0f"))
	}
	return nil
}
