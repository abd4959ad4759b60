// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"afterfin/internal/feed"
	"afterfin/internal/folklore"
	"afterfin/internal/tracer"
	"afterfin/internal/view"
)

func labCommand(e env) *cobra.Command {
	var (
		output  string
		control bool
		noBPF   bool
	)
	cmd := &cobra.Command{
		Use:   "lab [NAME... | all]",
		Short: "Try what is said about TIME_WAIT and CLOSE_WAIT on this kernel, with a verdict and figures",
		Long: "Each claim is tried with real processes and sockets in a network namespace of its own; nothing outside\n" +
			"of it is touched, and an interrupt leaves nothing behind. The verdict is holds, fails, changed (in which\n" +
			"kernel) or depends (on what the claim does not name). All of them together take a minute and a half,\n" +
			"side by side. Without a name the claims are listed.",
		Example: "  afterfin lab\n  afterfin lab all\n  afterfin lab restart tw-reuse -o json\n  afterfin lab late-fin --control",
		RunE: func(_ *cobra.Command, names []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			claims, unknown := folklore.Find(names)
			switch {
			case unknown != "":
				return &failure{code: exitUsage, err: fmt.Errorf("%q is no claim", unknown), hint: "afterfin lab lists them"}
			case len(names) > 0:
				return tryClaims(e, claims, output, control, noBPF)
			case control || noBPF || output == "json":
				return usage("lab: which claim? (all, or some by name)")
			}
			if err := pipeGone(view.WriteClaims(e.stdout, folklore.All)); err != nil {
				return &failure{code: exitRuntime, err: err}
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) (names []string, _ cobra.ShellCompDirective) {
			for _, c := range folklore.All {
				names = append(names, c.Name+"\t"+c.Text)
			}
			return append(names, "all"), cobra.ShellCompDirectiveNoFileComp
		},
	}
	addOutput(cmd, &output)
	cmd.Flags().BoolVar(&control, "control", false, "turn the condition that each verdict rests on the other way: another verdict must come")
	cmd.Flags().BoolVar(&noBPF, "no-bpf", false, "go by system calls and sock_diag alone, for kernels that cannot be traced")
	return cmd
}

func tryClaims(e env, claims []*folklore.Claim, output string, control, noBPF bool) error {
	var f *feed.Feed
	if !noBPF {
		var err error
		if f, err = attach(e, feed.Config{}); err != nil {
			return orNoBPF(err)
		}
		defer f.Close()
		if err := sees(f.Start(), tracer.GivesTimeWait); err != nil {
			return orNoBPF(err)
		}
	}
	write := view.WriteFinding
	if output == "json" {
		write = view.WriteFindingJSON
	}
	// A reader that went away ends the rest.
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	fmt.Fprintf(e.stderr, "claims to try: %d, in about %d s\n", len(claims), int(folklore.Longest(claims).Seconds()))
	p := &progress{env: e, begin: time.Now(), claims: slices.Clone(claims)}
	defer p.start()()
	var failed, why error
	unable := 0
	verdicts := make(map[folklore.Verdict]int)
	err := folklore.Run(ctx, claims, folklore.Options{Feed: f, Control: control, Done: func(found folklore.Finding) {
		p.clear(found.Name)
		if errors.Is(found.Err, folklore.ErrNetNS) { // the others fare no better
			failed = cannotTry(found.Err, found.Err)
			cancel()
			return
		}
		verdicts[found.Verdict]++
		if found.Err != nil {
			unable++
			why = errors.Join(why, found.Err)
		}
		if err := write(e.stdout, &found); err != nil {
			failed = pipeGone(err)
			cancel()
		}
	}})
	switch {
	case failed != nil:
		var known *failure
		if errors.As(failed, &known) {
			return known
		}
		return &failure{code: exitRuntime, err: failed}
	case e.ctx.Err() != nil:
		return &failure{code: exitRuntime, err: fmt.Errorf("stopped: %d of %d claims are without a verdict", len(p.left()), len(claims))}
	case err != nil: // the reader went away
		return nil
	case unable > 0:
		return cannotTry(fmt.Errorf("%d of %d claims could not be tried", unable, len(claims)), why)
	}
	p.clear("")
	var parts []string
	for _, v := range []folklore.Verdict{folklore.Holds, folklore.Fails, folklore.Changed, folklore.Depends} {
		if n := verdicts[v]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", v, n))
		}
	}
	fmt.Fprintf(e.stderr, "verdicts: %s (in %s)\n", strings.Join(parts, ", "), view.Duration(time.Since(p.begin)))
	return nil
}

// orNoBPF: what cannot be traced can still be tried.
func orNoBPF(err error) error {
	var f *failure
	if errors.As(err, &f) && f.code == exitFeature {
		return &failure{code: f.code, err: f.err, hint: strings.TrimPrefix(f.hint+"; or --no-bpf", "; or ")}
	}
	return err
}

// cannotTry is a failure for a reason.
func cannotTry(err, why error) error {
	if errors.Is(why, unix.EPERM) || errors.Is(why, unix.EACCES) {
		return &failure{code: exitPrivilege, err: err, hint: "run as root (sudo), or with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW"}
	}
	return &failure{code: exitRuntime, err: err}
}
