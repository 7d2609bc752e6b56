// On a host of agents: four of them on the shared spool, killed and stopped at random until the server's host calls for calm.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { random } from '../chaos/chaos.ts'
import { type Blows, CALM, END, exists, INSTANCE, LEASE_MS, reportOf, ROOT, setting } from './place.ts'

const next = random(setting('seed') + (hostname() === 'hv-a' ? 1 : 2))
/** the end of what all of them said */
let last = ''
let silent = 0
const config = '/run/agent.yaml'
await writeFile(
  config,
  JSON.stringify({
    lease: { timeout: `${LEASE_MS}ms` },
    max_crashes: 10_000,
    retry: { max_attempts: 2, delay: '1s', factor: 1 },
    intake: { raw_keep: '1s', bare_disks: 'off' },
    drain: { timeout: '20s' },
    timeouts: { kill_grace: '2s' },
    history: { path: '/run/history.db' },
  }),
)

interface Slot {
  child: ChildProcess
  alive: boolean
  ready: boolean
  worker: boolean
  stoppedUntil?: number
}

function start(worker: boolean): Slot {
  const argv = ['agent', INSTANCE, '--root', ROOT, '--config', config, ...(worker ? ['--worker'] : [])]
  const child = spawn('/opt/vmspool/bin/vmspool', argv, { stdio: ['ignore', 'pipe', 'pipe'] })
  const slot: Slot = { child, alive: true, ready: false, worker }
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (d: Buffer) => {
      if (d.toString().includes('agent.ready')) slot.ready = true
      last = (last + d.toString()).slice(-600)
    })
  child.on('close', () => {
    slot.alive = false
  })
  return slot
}

const began = performance.now()
const say = (line: string) =>
  process.stdout.write(`agents: ${Math.round((performance.now() - began) / 1000)} s  ${line}\n`)
const report: Blows = { host: hostname(), kills: 0, stops: 0, clock: Date.now() }
const slots = [start(false), start(true), start(true), start(true)]
const until = performance.now() + setting('minutes') * 60_000
while (performance.now() < until && !(await exists(CALM))) {
  await sleep(10_000) // emulated hosts need their time to start an agent
  say(
    `${slots.filter((s) => s.alive).length} of 4 alive, ${report.kills} kills, ${report.stops} stops; ${last.trimEnd().split('\n').at(-1)}`,
  )
  if (!slots.some((s) => s.ready) && ++silent % 6 === 0) {
    const all = execFileSync('ps', ['-eo', 'pid,ppid,stat,wchan:32,time,args'], { encoding: 'utf8' }).split('\n')
    say(`none is ready:\n${all.filter((l) => l.includes('vmspool')).join('\n')}`)
  }
  for (const [i, s] of slots.entries()) {
    if (s.stoppedUntil !== undefined && performance.now() > s.stoppedUntil) {
      s.child.kill('SIGCONT')
      s.stoppedUntil = undefined
    }
    if (!s.alive) slots[i] = start(s.worker)
  }
  const victim = slots[Math.floor(next() * slots.length)]!
  if (!victim.alive || !victim.ready || victim.stoppedUntil !== undefined || next() < 0.4) continue
  if (next() < 0.4) {
    victim.child.kill('SIGSTOP')
    victim.stoppedUntil = performance.now() + LEASE_MS * 1.6
    report.stops++
  } else {
    victim.child.kill('SIGKILL')
    report.kills++
  }
}
for (const s of slots) s.child.kill('SIGCONT')
while (!(await exists(END))) {
  for (const [i, s] of slots.entries()) if (!s.alive) slots[i] = start(s.worker)
  await sleep(2000)
}
for (const s of slots) s.child.kill('SIGTERM')
for (let n = 0; n < 60 && slots.some((s) => s.alive); n++) await sleep(1000)
await writeFile(reportOf(report.host), JSON.stringify({ ...report, clock: Date.now() }))
