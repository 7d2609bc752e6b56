/**
 * A disk in memory that can lose power. It keeps a journal of every change of a name and of which changes an fsync made
 * durable; power loss replays what was durable, what came before it for the same file, and a random part of the rest.
 */
import type { EntryKind } from '../../src/spool/fs.ts'
import type { Random } from './random.ts'

export interface Node {
  id: number
  dir: boolean
  data: string
  /** content as of the last fsync; undefined: never synced */
  synced: string | undefined
  kids: Map<string, number>
  mtime: number
}

type Change =
  | { kind: 'link'; dir: number; name: string; node: number }
  | { kind: 'unlink'; dir: number; name: string; node: number }
  | { kind: 'move'; dir: number; name: string; dir2: number; name2: string; node: number }

interface Entry {
  change: Change
  durable: boolean
}

export function fail(code: string, path = ''): Error {
  return Object.assign(new Error(`${code} ${path}`), { code })
}

export class Disk {
  nodes = new Map<number, Node>()
  root: Node
  journal: Entry[] = []
  base: { dir: number; name: string; node: number }[] = []
  history = new Map<number, string[][]>()
  private last = 0
  now = 0

  constructor() {
    this.root = this.make(true)
  }

  private make(dir: boolean): Node {
    const node: Node = { id: ++this.last, dir, data: '', synced: undefined, kids: new Map(), mtime: this.now }
    this.nodes.set(node.id, node)
    return node
  }

  /** From here on nothing of what is there can be lost. */
  settle(): void {
    this.base = []
    for (const n of this.nodes.values()) {
      for (const [name, node] of n.kids) this.base.push({ dir: n.id, name, node })
      n.synced = n.data
    }
    this.journal = []
    this.history.clear()
  }

  find(path: string): Node {
    let at = this.root
    for (const part of path.split('/')) {
      if (part === '') continue
      if (!at.dir) throw fail('ENOTDIR', path)
      const id = at.kids.get(part)
      if (id === undefined) throw fail('ENOENT', path)
      at = this.nodes.get(id)!
    }
    return at
  }

  private parent(path: string): [Node, string] {
    const cut = path.lastIndexOf('/')
    const dir = this.find(path.slice(0, cut))
    if (!dir.dir) throw fail('ENOTDIR', path)
    return [dir, path.slice(cut + 1)]
  }

  private remember(dir: Node): void {
    const list = this.history.get(dir.id) ?? []
    list.push([...dir.kids.keys()])
    if (list.length > 4) list.shift()
    this.history.set(dir.id, list)
  }

  private note(change: Change): void {
    this.journal.push({ change, durable: false })
  }

  mkdir(path: string): void {
    const [dir, name] = this.parent(path)
    if (dir.kids.has(name)) throw fail('EEXIST', path)
    this.remember(dir)
    const node = this.make(true)
    dir.kids.set(name, node.id)
    this.note({ kind: 'link', dir: dir.id, name, node: node.id })
  }

  /** open(O_CREAT|O_TRUNC): returns the node, so that a writer goes on in a file that was renamed. */
  create(path: string, exclusive = false): Node {
    const [dir, name] = this.parent(path)
    const there = dir.kids.get(name)
    if (there !== undefined) {
      if (exclusive) throw fail('EEXIST', path)
      const node = this.nodes.get(there)!
      if (node.dir) throw fail('EISDIR', path)
      this.write(node, '')
      return node
    }
    this.remember(dir)
    const node = this.make(false)
    dir.kids.set(name, node.id)
    this.note({ kind: 'link', dir: dir.id, name, node: node.id })
    return node
  }

  write(node: Node, data: string): void {
    node.data = data
    node.mtime = this.now
  }

  syncFile(node: Node): void {
    node.synced = node.data
  }

  syncDir(path: string): void {
    const dir = this.find(path)
    if (!dir.dir) throw fail('ENOTDIR', path)
    for (const e of this.journal) {
      const c = e.change
      if (c.dir === dir.id || (c.kind === 'move' && c.dir2 === dir.id)) e.durable = true
    }
  }

  list(path: string): string[] {
    const dir = this.find(path)
    if (!dir.dir) throw fail('ENOTDIR', path)
    return [...dir.kids.keys()]
  }

  stale(path: string, random: Random): string[] {
    const dir = this.find(path)
    if (!dir.dir) throw fail('ENOTDIR', path)
    const old = this.history.get(dir.id)
    return old?.length ? random.pick(old) : [...dir.kids.keys()]
  }

  kind(node: Node): EntryKind {
    return node.dir ? 'dir' : 'file'
  }

  unlink(path: string): void {
    const [dir, name] = this.parent(path)
    const id = dir.kids.get(name)
    if (id === undefined) throw fail('ENOENT', path)
    if (this.nodes.get(id)!.dir) throw fail('EISDIR', path)
    this.drop(dir, name, id)
  }

  rmdir(path: string): void {
    const [dir, name] = this.parent(path)
    const id = dir.kids.get(name)
    if (id === undefined) throw fail('ENOENT', path)
    const node = this.nodes.get(id)!
    if (!node.dir) throw fail('ENOTDIR', path)
    if (node.kids.size > 0) throw fail('ENOTEMPTY', path)
    this.drop(dir, name, id)
  }

  private drop(dir: Node, name: string, id: number): void {
    this.remember(dir)
    dir.kids.delete(name)
    this.note({ kind: 'unlink', dir: dir.id, name, node: id })
  }

  rename(from: string, to: string): void {
    const [dir, name] = this.parent(from)
    const id = dir.kids.get(name)
    if (id === undefined) throw fail('ENOENT', from)
    const [dir2, name2] = this.parent(to)
    const there = dir2.kids.get(name2)
    if (there === id) return
    if (there !== undefined) {
      const target = this.nodes.get(there)!
      const node = this.nodes.get(id)!
      if (target.dir && !node.dir) throw fail('EISDIR', to)
      if (!target.dir && node.dir) throw fail('ENOTDIR', to)
      if (target.dir && target.kids.size > 0) throw fail('ENOTEMPTY', to)
    }
    this.remember(dir)
    this.remember(dir2)
    dir.kids.delete(name)
    dir2.kids.set(name2, id)
    this.note({ kind: 'move', dir: dir.id, name, dir2: dir2.id, name2, node: id })
  }

  /** Everything that no fsync covered may be gone, or may have made it. */
  power(random: Random): void {
    const byNode = new Map<number, number[]>()
    for (const [i, e] of this.journal.entries()) {
      const list = byNode.get(e.change.node)
      if (list) list.push(i)
      else byNode.set(e.change.node, [i])
    }
    const keep = new Set<number>()
    const kind = random() < 0.7 ? 0.5 : 0
    for (const list of byNode.values()) {
      const lastDurable = list.findLastIndex((i) => this.journal[i]!.durable)
      let going = true
      for (const [at, i] of list.entries()) {
        if (at <= lastDurable || (going && random.chance(kind))) keep.add(i)
        else going = false
      }
    }
    for (const n of this.nodes.values()) n.kids.clear()
    for (const b of this.base) this.nodes.get(b.dir)!.kids.set(b.name, b.node)
    const kept: Entry[] = []
    for (const [i, e] of this.journal.entries()) {
      if (!keep.has(i)) continue
      const c = e.change
      const dir = this.nodes.get(c.dir)!
      if (c.kind === 'link') dir.kids.set(c.name, c.node)
      else if (c.kind === 'unlink') {
        if (dir.kids.get(c.name) === c.node) dir.kids.delete(c.name)
      } else {
        if (dir.kids.get(c.name) === c.node) dir.kids.delete(c.name)
        this.nodes.get(c.dir2)!.kids.set(c.name2, c.node)
      }
      kept.push({ change: c, durable: true })
    }
    this.journal = kept
    this.history.clear()
    for (const n of this.nodes.values()) {
      if (n.dir || n.synced === n.data) continue
      // Content that was not synced: all of it, or a torn part of it.
      if (!random.chance(0.3)) n.data = n.synced ?? n.data.slice(0, random.int(n.data.length + 1) >> 1)
      n.synced = n.data
    }
  }

  /** All files below a folder, with their paths. */
  *files(path: string): Generator<[string, Node]> {
    const dir = this.tryFind(path)
    if (!dir) return
    for (const [name, id] of dir.kids) {
      const node = this.nodes.get(id)!
      if (node.dir) yield* this.files(`${path}/${name}`)
      else yield [`${path}/${name}`, node]
    }
  }

  tryFind(path: string): Node | undefined {
    try {
      return this.find(path)
    } catch {
      return undefined
    }
  }
}
