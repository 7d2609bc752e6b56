/** Every command with one line about it, and how to load it. */
import type { Command } from 'commander'

type Group = 'Jobs:' | 'VMs:' | 'Agents:' | 'Manifests and configuration:' | 'Checks:'

export interface Entry {
  name: string
  summary: string
  group: Group
  load(): Promise<{ default(): Command }>
}

export const table: readonly Entry[] = [
  {
    name: 'submit',
    summary: 'drop manifests or disks into the queue',
    group: 'Jobs:',
    load: () => import('./commands/submit.ts'),
  },
  {
    name: 'run',
    summary: 'start commands in the background, without an agent',
    group: 'Jobs:',
    load: () => import('./commands/run.ts'),
  },
  {
    name: 'status',
    summary: 'show one job, or wait for it',
    group: 'Jobs:',
    load: () => import('./commands/status.ts'),
  },
  { name: 'list', summary: 'list jobs', group: 'Jobs:', load: () => import('./commands/list.ts') },
  {
    name: 'logs',
    summary: "print a job's log, or follow it to its end",
    group: 'Jobs:',
    load: () => import('./commands/logs.ts'),
  },
  { name: 'cancel', summary: 'cancel jobs', group: 'Jobs:', load: () => import('./commands/cancel.ts') },
  {
    name: 'retry',
    summary: 'submit an ended job again as a new job',
    group: 'Jobs:',
    load: () => import('./commands/retry.ts'),
  },
  { name: 'stop', summary: 'stop running jobs', group: 'Jobs:', load: () => import('./commands/stop.ts') },
  {
    name: 'wait',
    summary: 'wait until jobs have ended',
    group: 'Jobs:',
    load: () => import('./commands/wait.ts'),
  },
  { name: 'rerun', summary: 'run ended jobs again', group: 'Jobs:', load: () => import('./commands/rerun.ts') },
  {
    name: 'cleanup',
    summary: 'remove jobs that are over',
    group: 'Jobs:',
    load: () => import('./commands/cleanup.ts'),
  },
  {
    name: 'convert',
    summary: 'convert a disk, an OVA or a manifest, through an agent or directly',
    group: 'Jobs:',
    load: () => import('./commands/convert.ts'),
  },
  {
    name: 'hyper2kvm',
    summary: 'convert what a manifest names, the way hyper2kvm is called by hyperexport',
    group: 'Jobs:',
    load: () => import('./commands/hyper2kvm.ts'),
  },
  {
    name: 'tui',
    summary: 'jobs, VMs, instances and logs on the whole terminal, live',
    group: 'Jobs:',
    load: () => import('./commands/tui.ts'),
  },
  {
    name: 'history',
    summary: 'the index of finished jobs: search errors, import tasks of Ghost, rebuild',
    group: 'Jobs:',
    load: () => import('./commands/history.ts'),
  },
  {
    name: 'stats',
    summary: 'count finished jobs by kind, day, outcome, name or host',
    group: 'Jobs:',
    load: () => import('./commands/stats.ts'),
  },
  {
    name: 'vm',
    summary: 'VMs on libvirt: create, list, start, stop, console …',
    group: 'VMs:',
    load: () => import('./commands/vm.ts'),
  },
  {
    name: 'image',
    summary: 'the images that VMs are made from: list, pull, add, rm',
    group: 'VMs:',
    load: () => import('./commands/image.ts'),
  },
  {
    name: 'agent',
    summary: 'run an agent in the foreground',
    group: 'Agents:',
    load: () => import('./commands/agent.ts'),
  },
  {
    name: 'daemon',
    summary: 'ask running agents, start and stop them: status, list, start, restart, logs, drain, stop',
    group: 'Agents:',
    load: () => import('./commands/daemon.ts'),
  },
  {
    name: 'check',
    summary: 'check manifests the way a compiler checks sources',
    group: 'Manifests and configuration:',
    load: () => import('./commands/check.ts'),
  },
  {
    name: 'schema',
    summary: 'print the JSON Schema of a kind of manifest',
    group: 'Manifests and configuration:',
    load: () => import('./commands/schema.ts'),
  },
  {
    name: 'config',
    summary: 'print the configuration in force and where each value comes from',
    group: 'Manifests and configuration:',
    load: () => import('./commands/config.ts'),
  },
  {
    name: 'doctor',
    summary: 'check this host and say how to fix what is wrong',
    group: 'Checks:',
    load: () => import('./commands/doctor.ts'),
  },
  {
    name: 'fsck',
    summary: 'audit a spool and its results',
    group: 'Checks:',
    load: () => import('./commands/fsck.ts'),
  },
]
