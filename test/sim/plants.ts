/** Six bugs, each of which somebody could write. The simulation must find every one. */
import type { Plant } from './bundle.ts'

export const PLANTS: Record<string, Plant[]> = {
  'no fsync between commit and publish': [
    { file: 'commit.ts', find: '  await s.sync(s.layout.committed)\n', replace: '' },
    { file: 'publish.ts', find: '  await s.sync(s.layout.committed)\n', replace: '' },
  ],
  'claim without the ticket check': [
    { file: 'attempt.ts', find: 'if (at > 0) return', replace: 'if (at > 1e9) return' },
  ],
  'publish that ignores a newer ticket': [
    { file: 'publish.ts', find: 'visible = lane.at(-1) === ticket', replace: 'visible = true' },
  ],
  'scratch deleted on ENOENT at commit': [
    {
      file: 'commit.ts',
      find: '  if (!(await move(s, join(s.layout.claimed, c.owner, c.name.file), to))) {\n',
      replace: `  try {
    await s.fs.rename(join(s.layout.claimed, c.owner, c.name.file), to)
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOENT') throw error
    for (const f of await s.fs.readdir(c.answerDir)) await s.fs.unlink(join(c.answerDir, f)).catch(() => {})
    return 'fenced'
  }
  if (to === '') {
`,
    },
  ],
  "takeover without renaming the owner's folders": [
    {
      file: 'reap.ts',
      find: 'if ((await namesIn(s, l.old, true)).includes(dead)) await move(s, join(l.old, dead), join(l.old, mine, part))',
      replace: '',
    },
    {
      file: 'reap.ts',
      find: 'if (await move(s, join(l.intake, dead), join(l.intake, mine, part))) {',
      replace: `for (const f of await namesIn(s, join(l.intake, dead), true)) await move(s, join(l.intake, dead, f), join(l.intake, mine, f))
    if (part !== '') {`,
    },
  ],
  'a heartbeat that trusts memory': [
    {
      file: 'owner.ts',
      find: 'owned: files.map(parseJobName).filter((n) => n !== undefined)',
      replace: 'owned: files.map(parseJobName).filter((n) => n === null)',
    },
  ],
}
