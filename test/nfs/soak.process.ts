// Several hosts on one spool over a real network filesystem: a Linux NFS server, two hosts with four agents each, and clients on the
// server's host, each a QEMU guest with a kernel, a boot id and a clock of its own. Agents are killed and stopped beyond their lease, the
// server is restarted in the middle, and one host's clock is an hour off. Arguments: mount options (several runs, separated by blanks).
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ChaosReport } from '../chaos/chaos.ts'
import { summary } from '../chaos/chaos.ts'
import { guestImage } from './guest-image.ts'

const MOUNTS = process.argv.length > 2 ? process.argv.slice(2) : ['vers=4.2', 'vers=3']
const JOBS = Number(process.env.VMSPOOL_NFS_JOBS ?? 500)
const MINUTES = Number(process.env.VMSPOOL_NFS_MINUTES ?? 20)
const began = performance.now()
const say = (line: string) =>
  process.stdout.write(`${((performance.now() - began) / 1000).toFixed(0).padStart(6)} s  ${line}\n`)

const dir = await mkdtemp(join(tmpdir(), 'vs-nfs-'))
try {
  const { disk, kernel } = await guestImage(dir, say)
  for (const mount of MOUNTS) await round(disk, kernel, mount)
} finally {
  await rm(dir, { recursive: true, force: true })
}

async function round(disk: string, kernel: string, mount: string): Promise<void> {
  const seed = Date.now() % 1_000_000
  say(`NFS ${mount}: ${JOBS} jobs, 8 agents on 2 hosts, seed ${seed}`)
  const common = `vs.nfs=${mount} vs.seed=${seed} vs.jobs=${JOBS} vs.minutes=${MINUTES}`
  const cable = (n: number, server: boolean) => [
    ...[
      '-netdev',
      `stream,id=n${n},server=${server ? 'on' : 'off'},addr.type=unix,addr.path=${join(dir, `cable${n}`)}`,
    ],
    ...['-device', `virtio-net-pci,netdev=n${n},mac=52:54:00:99:0${n}:0${server ? 1 : 2}`],
  ]
  const guests = [host(disk, kernel, `vs.role=server vs.host=server ${common}`, [...cable(1, true), ...cable(2, true)])]
  // the server's ends of the cables must be there first
  await guests[0]!.said(/init: it is /)
  const hour = new Date(Date.now() + 3_600_000).toISOString().slice(0, 19)
  guests.push(
    host(disk, kernel, `vs.role=agents vs.host=hv-a vs.net=1 ${common}`, cable(1, false)),
    host(disk, kernel, `vs.role=agents vs.host=hv-b vs.net=2 ${common}`, [...cable(2, false), '-rtc', `base=${hour}`]),
  )
  try {
    const text = await guests[0]!.said(/REPORT (\{.*\})\r?\n/)
    const report = JSON.parse(/REPORT (\{.*\})\r?\n/.exec(text)![1]!) as ChaosReport & {
      wrongHost: string[]
      restarted: boolean
      skew: string[]
    }
    say(`clocks against the server's: ${report.skew.join(', ')}; server restarted: ${report.restarted}`)
    process.stdout.write(`${summary(report)}\n`)
    for (const w of report.wrongHost) process.stdout.write(`  ${w}\n`)
    const off = report.skew.some((s) => Math.abs(Number(/(-?\d+) min/.exec(s)?.[1])) > 50)
    const problems = report.lost.length + report.doubles.length + report.wrong.length + report.wrongHost.length
    if (problems > 0 || report.fsckExit !== 0 || !report.restarted || !off) process.exitCode = 1
  } catch (error) {
    process.exitCode = 1
    say(String(error))
    for (const g of guests) process.stdout.write(`${g.tail()}\n`)
  } finally {
    for (const g of guests) await g.end()
    for (const n of [1, 2]) await rm(join(dir, `cable${n}`), { force: true })
  }
}

interface Host {
  /** what it printed, once `pattern` is in it; throws when it ends before */
  said(pattern: RegExp): Promise<string>
  tail(): string
  end(): Promise<void>
}

function host(disk: string, kernel: string, words: string, devices: string[]): Host {
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', '1536', '-no-reboot', '-nodefaults'],
      ...['-display', 'none', '-serial', 'stdio', '-snapshot', '-device', 'virtio-rng-pci'],
      ...['-drive', `if=none,id=d0,file=${disk},format=raw`, '-device', 'nvme,drive=d0,serial=x'],
      ...['-kernel', kernel, '-append'],
      `console=ttyS0 root=/dev/nvme0n1 rw init=/opt/rig/test/nfs/init.sh panic=-1 quiet mitigations=off random.trust_cpu=on ${words}`,
      ...devices,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const name = /vs.host=(\S+)/.exec(words)![1]!
  let text = ''
  let shown = 0
  let over = false
  let wake = () => {}
  const heard = (d: Buffer) => {
    text += d.toString()
    const lines = text.slice(shown).split('\n')
    shown = text.length - lines.pop()!.length
    for (const line of lines) if (/^(\w+: )/.test(line)) say(`${name}: ${line.trimEnd()}`)
    wake()
  }
  child.stdout.on('data', heard)
  child.stderr.on('data', heard)
  const closed = new Promise<void>((resolve) => child.on('close', () => resolve()))
  void closed.then(() => {
    over = true
    wake()
  })
  return {
    async said(pattern) {
      while (!pattern.test(text)) {
        if (over) throw new Error(`The guest (${name}) ended before it printed ${pattern}.`)
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
      return text
    },
    tail: () => `--- ${name}\n${text.slice(-3000)}`,
    async end() {
      child.kill('SIGKILL')
      await closed
    },
  }
}
