/** Bugs, each of which somebody could write. The simulation must find every one. */
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
  'children of a batch that are being accepted are not seen': [
    {
      file: 'children.ts',
      find: 'const found = await idsInAccept(s, wanted)',
      replace: 'const found = new Set<string>()',
    },
    { file: 'children.ts', find: 'await idsInAccept(s, wanted).then((ids) => planned.push(...ids))', replace: '' },
  ],
  'children of a batch are looked for where jobs move back and forth': [
    { file: 'children.ts', find: 'if (id !== undefined && wanted.has(id)) found.add(id)', replace: 'void id' },
    {
      file: 'children.ts',
      find: 'for (const dir of [s.layout.committed, ...OUTCOMES.map((o) => s.layout[o])]) {',
      replace: `const claims = (await namesIn(s, s.layout.claimed, true)).map((o) => join(s.layout.claimed, o))
  for (const file of await namesIn(s, s.layout.held, true)) if (wanted.has(file.slice(16, 42))) found.add(file.slice(16, 42))
  for (const dir of [s.layout.new, ...claims, s.layout.committed, ...OUTCOMES.map((o) => s.layout[o])]) {`,
    },
  ],
  'a heartbeat that trusts memory': [
    {
      file: 'owner.ts',
      find: 'owned: files.map(parseJobName).filter((n) => n !== undefined)',
      replace: 'owned: files.map(parseJobName).filter((n) => n === null)',
    },
  ],
  'each attempt makes a next run of its own': [
    {
      file: 'successor.ts',
      find: 'const fixed = await readSuccessor(s, run)',
      replace: 'const fixed = own ? { id: own, due_ms: dueMs } : await readSuccessor(s, run)',
    },
    { file: 'successor.ts', find: 'const there = await readSuccessor(s, run)', replace: 'const there = undefined' },
  ],
}
