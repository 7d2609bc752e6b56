// Limits by scopes of a real systemd, in a container, and a job of an agent in one of them: `npm run soak -- systemd`.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { systemdBox } from '../support/systemd-box.ts'
import { until } from '../support/wait.ts'

/** where the container has this checkout */
const home = '/usr/lib/vmspool'
let wrong = 0
const check = (what: string, good: boolean, seen: unknown): void => {
  process.stdout.write(`${good ? 'ok   ' : 'WRONG'} ${what}: ${JSON.stringify(seen)}\n`)
  if (!good) wrong += 1
}

await using box = await systemdBox()
const out = async (...argv: string[]): Promise<string> => {
  const r = await box.run(...argv)
  return r.stdout + r.stderr
}
const inside = await out(join(home, 'node_modules/.bin/node'), join(home, 'test/process/systemd-inside.process.ts'))
const seen = JSON.parse(inside.slice(inside.indexOf('{"manager')))
check('root is served by the manager of the system', seen.manager === 'system', seen.manager)
check('the program is in a scope of its own', /vmspool-test-group\.scope/.test(seen.group.out), seen.group.out)
check('who stays below the limit is left alone', seen.small.out === 'fine' && seen.small.code === 0, seen.small)
check('memory counts for all processes together', !/had it\s+had it/.test(seen.hog.out), seen.hog)
check('so do tasks', Number(seen.tasks.out) > 2 && Number(seen.tasks.out) < 8, seen.tasks)
check('a quarter of a processor', Number(seen.cpu.out) < 1.5 && seen.cpu.warnings.length === 0, seen.cpu)

// And as a job: the shim, the submitter's rights and the scope together.
const spool = '/tmp/spool'
const vmspool = join(home, 'bin/vmspool')
await box.run('systemd-run', '--unit=agent-test', '--', vmspool, 'agent', 't', '--root', spool)
await until(
  'the agent is ready',
  async () => (await box.run('test', '-e', join(spool, 't/output/.daemon/control.sock'))).code === 0,
)
const manifest = {
  kind: 'command',
  name: 'scoped',
  command: { argv: ['cat', '/proc/self/cgroup'], limits: { memory: '200M', cpu: 0.5, nice: 3 } },
}
writeFileSync(join(box.root, 'tmp-manifest.json'), JSON.stringify(manifest))
await box.run('cp', '/tmp-manifest.json', join(spool, 't/queue/.x'))
await box.run('mv', join(spool, 't/queue/.x'), join(spool, 't/queue/scoped.json'))
await until('the job ended', async () =>
  (await out('cat', join(spool, 't/output/scoped.status.json'))).includes('"succeeded"'),
)
const log = await out('sh', '-c', `cat ${spool}/t/output/jobs/*/log`)
check(
  'a job of an agent has its scope',
  /stdout F .*vmspool-[0-9A-Z]{26}-0\.scope/.test(log),
  log.split('\n').slice(0, 3),
)
await box.run('systemctl', 'stop', 'agent-test')
process.exitCode = wrong > 0 ? 1 : 0
