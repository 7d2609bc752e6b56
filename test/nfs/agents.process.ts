// On a host of agents: four of them on the shared spool, killed and stopped at random until the client calls for calm.
import { type ChildProcess, spawn } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { random } from '../chaos/chaos.ts'
import { type Blows, CALM, END, exists, INSTANCE, reportOf, ROOT, setting, TOLD } from './place.ts'

const next = random(setting('seed') + (hostname() === 'hv-a' ? 1 : 2))
const lease_ms = setting('lease')
const config = '/run/agent.yaml'
await writeFile(
  config,
  JSON.stringify({
    lease: { timeout: `${lease_ms}ms` },
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

const report: Blows = {
  host: hostname(),
  kills: 0,
  stops: 0,
  told: Object.fromEntries(TOLD.map((t) => [t, 0])),
  clock: Date.now(),
}
/** what the last of them said */
let last = ''

function start(worker: boolean): Slot {
  const argv = ['agent', INSTANCE, '--root', ROOT, '--config', config, ...(worker ? ['--worker'] : [])]
  const child = spawn('/opt/vmspool/bin/vmspool', argv, { stdio: ['ignore', 'pipe', 'pipe'] })
  const slot: Slot = { child, alive: true, ready: false, worker }
  for (const stream of [child.stdout, child.stderr])
    createInterface({ input: stream }).on('line', (line) => {
      last = line.slice(0, 300)
      const event = /"event":"([^"]+)"/.exec(line)?.[1]
      if (event === 'agent.ready') slot.ready = true
      if (event !== undefined && event in report.told) report.told[event]! += 1
      if (/"level":"error"/.test(line) || event === undefined) say(line.slice(0, 600))
    })
  child.on('close', () => {
    slot.alive = false
  })
  return slot
}

const began = performance.now()
const say = (line: string) =>
  process.stdout.write(`agents: ${Math.round((performance.now() - began) / 1000)} s  ${line}\n`)
const slots: Slot[] = []
const until = performance.now() + setting('minutes') * 60_000
for (let round = 0; performance.now() < until && !(await exists(CALM)); round++) {
  // One after the other: four that start at once on one processor are all ready late.
  if (slots.length < setting('agents') && slots.every((s) => s.ready)) slots.push(start(slots.length > 0))
  await sleep(2000)
  if (round % 20 === 19)
    say(`${slots.filter((s) => s.ready).length} ready, ${report.kills} kills, ${report.stops} stops; ${last}`)
  for (const [i, s] of slots.entries()) {
    if (s.stoppedUntil !== undefined && performance.now() > s.stoppedUntil) {
      s.child.kill('SIGCONT')
      s.stoppedUntil = undefined
    }
    if (!s.alive) slots[i] = start(s.worker)
  }
  const victim = slots[Math.floor(next() * slots.length)]!
  if (!victim.alive || !victim.ready || victim.stoppedUntil !== undefined || next() < 0.92) continue
  if (next() < 0.4) {
    victim.child.kill('SIGSTOP')
    victim.stoppedUntil = performance.now() + lease_ms * 1.6
    report.stops++
  } else {
    victim.child.kill('SIGKILL')
    report.kills++
  }
}
say(`calm after ${report.kills} kills and ${report.stops} stops`)
for (const s of slots) s.child.kill('SIGCONT')
while (!(await exists(END))) {
  for (const [i, s] of slots.entries()) if (!s.alive) slots[i] = start(s.worker)
  await sleep(2000)
}
for (const s of slots) s.child.kill('SIGTERM')
for (let n = 0; n < 60 && slots.some((s) => s.alive); n++) await sleep(1000)
await writeFile(reportOf(report.host), JSON.stringify({ ...report, clock: Date.now() }))
