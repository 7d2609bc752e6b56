// The import rule of the architecture: a room imports only from rooms on lower lines, and nothing imports in a circle.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'

const src = resolve(import.meta.dirname, '../../src')

/** From top to bottom. Rooms on one line may not import each other, except `together`. */
const lines = [
  ['cli'], // its commands start what is on the next line
  ['serve', 'tui'],
  ['agent', 'client'],
  ['jobs', 'history'],
  ['spool'],
  ['convert', 'vm'],
  ['domain'],
  ['images'],
  ['manifest', 'config', 'observe'],
  ['libvirt', 'process', 'text'],
]
/** Rooms that must stay packages of their own: they import nothing of the project. */
const independent = ['libvirt/', 'process/', 'text/', 'images/formats/']

const files = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((f) => f.endsWith('.ts'))
  .sort()

/** Module specifiers of a source text, found without a compiler: static imports and re-exports, import(), import types. */
function specifiers(source: string): string[] {
  const code = source.replace(/\/\*[\s\S]*?\*\//g, ' ').replace(/(^|[^:'"`\\])\/\/[^\n]*/g, '$1')
  const found: string[] = []
  for (const pattern of [
    /(?:^|[;\s}])(?:import|export)\s+(?:type\s+)?(?:[\w$*{}\s,]+?\s+from\s*)?['"]([^'"\n]+)['"]/g,
    /\bimport\s*\(\s*['"]([^'"\n]+)['"]\s*\)/g,
  ]) {
    for (const match of code.matchAll(pattern)) found.push(match[1]!)
  }
  return [...new Set(found)]
}

const imports = new Map(
  files.map((file) => [
    file,
    specifiers(readFileSync(join(src, file), 'utf8'))
      .filter((s) => s.startsWith('.'))
      .map((s) => relative(src, resolve(src, dirname(file), s))),
  ]),
)
const lineOf = (file: string) => lines.findIndex((rooms) => rooms.includes(file.split('/')[0]!))

describe('import rule', () => {
  test('the scanner sees every form of import', () => {
    const text = [
      "import a, { b,\n c } from './a.ts'",
      "import type { T } from './b.ts'",
      "export * from './c.ts'",
      "export { x } from './d.ts'",
      "import './e.ts'",
      "const f = await import('./f.ts')",
      "let g: import('./g.ts').G",
      "// import './no.ts'",
      "/* import './no.ts' */",
    ].join('\n')
    expect(specifiers(text).sort()).toEqual(['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((n) => `./${n}.ts`))
  })

  test('every source file lies in a known room', () => {
    expect(files.length).toBeGreaterThan(0)
    expect(files.filter((f) => f.includes('/') && lineOf(f) === -1)).toEqual([])
    expect(files.filter((f) => !f.includes('/'))).toEqual(['index.ts'].filter((f) => files.includes(f)))
  })

  test('rooms import only downward', () => {
    const wrong: string[] = []
    for (const [file, targets] of imports) {
      for (const target of targets) {
        const room = file.split('/')[0]!
        if (!files.includes(target)) {
          wrong.push(`${file} imports ${target}, which is no source file of the project.`)
        } else if (independent.some((p) => file.startsWith(p) && !target.startsWith(p))) {
          wrong.push(`${file} imports ${target}, but that folder may import nothing of the project.`)
        } else if (file.includes('/') && target.split('/')[0] !== room && lineOf(target) <= lineOf(file)) {
          wrong.push(`${file} imports ${target}, which lies on the same or on a higher line.`)
        }
      }
    }
    expect(wrong).toEqual([])
  })

  test('no file imports itself through others', () => {
    const circles: string[] = []
    const state = new Map<string, 'open' | 'closed'>()
    const visit = (file: string, path: string[]) => {
      if (state.get(file) === 'closed') return
      if (state.get(file) === 'open') {
        circles.push([...path.slice(path.indexOf(file)), file].join(' → '))
        return
      }
      state.set(file, 'open')
      for (const next of imports.get(file) ?? []) visit(next, [...path, file])
      state.set(file, 'closed')
    }
    for (const file of files) visit(file, [])
    expect(circles).toEqual([])
  })
})
