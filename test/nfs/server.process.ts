// On the file server's host: drops the jobs through a mount of its own, restarts the server in the middle, audits at the end.
import { execFileSync, spawnSync } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { audit, drop, emptyReport, random } from '../chaos/chaos.ts'
import { type Blows, CALM, END, endedCount, exists, INSTANCE, layout, reportOf, ROOT, setting } from './place.ts'

const jobs = setting('jobs')
const next = random(setting('seed'))
const hosts = ['hv-a', 'hv-b']
const began = performance.now()
const say = (line: string) =>
  process.stdout.write(`server: ${Math.round((performance.now() - began) / 1000)} s  ${line}\n`)

await eventually(
  'the agents have made the spool',
  300,
  async () => (await exists(layout.queue)) && (await exists(layout.output)),
)
const expected = new Map<string, 'done' | 'failed'>()
for (let i = 0; i < jobs; i++) {
  const label = `j${i}`
  const asks = i % 10 === 0
  const name = !asks && next() < 0.25 ? `shared-${Math.floor(next() * 10)}` : label
  const fails = next() < 0.1
  expected.set(label, fails ? 'failed' : 'done')
  const manifest = {
    kind: 'command',
    name,
    priority: i % 10,
    labels: { label },
    // some jobs ask for one of the hosts
    ...(asks ? { hosts: hosts[(i / 10) % 2] } : {}),
    command: { argv: ['/bin/sh', '-c', `hostname; ${fails ? 'exit 3' : 'exit 0'}`] },
  }
  await drop(layout, `${label}.json`, JSON.stringify(manifest), next)
  if (i % 10 === 9) await sleep(200)
}
say(`${jobs} jobs dropped`)

const deadline = performance.now() + setting('minutes') * 60_000
let restarted = false
let shown = -1
let ended = 0
while (performance.now() < deadline) {
  ended = await endedCount()
  if (Math.floor(ended / 100) !== shown) {
    shown = Math.floor(ended / 100)
    say(`${ended} ended`)
  }
  if (!restarted && ended > jobs / 3) {
    restarted = true
    say('the NFS server is stopped')
    execFileSync('rpc.nfsd', ['0'])
    await sleep(5000)
    execFileSync('rpc.nfsd', ['8'])
    say('the NFS server is back')
  }
  if (ended >= jobs) break
  await sleep(1000)
}
await writeFile(CALM, '')
say('calm')
await eventually('all jobs have ended', 900, async () => (await endedCount()) >= jobs).catch((e) => say(String(e)))
await writeFile(END, '')
for (const host of hosts) await eventually(`${host} has reported`, 180, () => exists(reportOf(host)))
const blows: Blows[] = []
for (const host of hosts) blows.push(JSON.parse(await readFile(reportOf(host), 'utf8')))

const report = emptyReport(jobs)
await audit(layout, expected, report)
const fsck = spawnSync('/opt/vmspool/bin/vmspool', ['fsck', '--root', ROOT, '--instance', INSTANCE], {
  encoding: 'utf8',
})
report.fsckExit = fsck.status ?? -1
report.fsck = fsck.stdout + fsck.stderr
report.kills = blows.reduce((n, b) => n + b.kills, 0)
report.stops = blows.reduce((n, b) => n + b.stops, 0)
report.duration_ms = performance.now() - began
// Which host ran what: the log of a job that asked for one must name it.
const wrongHost: string[] = []
for (const [i, label] of [...expected.keys()].entries()) {
  if (i % 10 !== 0) continue
  const status = JSON.parse(await readFile(`${layout.output}/${label}.status.json`, 'utf8')) as { owner?: string }
  const host = hosts[(i / 10) % 2]!
  if (status.owner !== undefined && !status.owner.startsWith(`${host}.`))
    wrongHost.push(`${label} ran on ${status.owner}, not on ${host}`)
}
const skew = blows.map((b) => `${b.host} ${Math.round((b.clock - Date.now()) / 60_000)} min`)
process.stdout.write(`REPORT ${JSON.stringify({ ...report, wrongHost, restarted, skew })}\n`)

async function eventually(what: string, seconds: number, f: () => Promise<boolean>): Promise<void> {
  for (let n = 0; n < seconds; n++) {
    if (await f()) return
    await sleep(1000)
  }
  throw new Error(`Not within ${seconds} s: ${what}.`)
}
