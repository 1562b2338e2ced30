// Model text to a safe DOM fragment: markdown-it with HTML off, then DOMPurify over the result.
import MarkdownIt from "markdown-it";
import createDOMPurify from "dompurify";

const markdown = new MarkdownIt({ html: false, linkify: false, breaks: true, typographer: false });
// Images in an answer would be fetched from wherever the text says; show their link instead.
markdown.disable("image");
markdown.validateLink = (url) => /^(https?:|mailto:)/i.test(url.trim());

const ALLOWED_TAGS = ["a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5",
  "h6", "hr", "li", "ol", "p", "pre", "s", "strong", "table", "tbody", "td", "th", "thead", "tr",
  "ul"];
const ALLOWED_ATTR = ["href", "start", "class"];

let purify;

/** @param {string} text @returns {DocumentFragment} */
export function renderMarkdown(text) {
  purify ??= createDOMPurify(window);
  const fragment = purify.sanitize(markdown.render(text), {
    ALLOWED_TAGS,
    ALLOWED_ATTR,
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const node of fragment.querySelectorAll("p, li, h1, h2, h3, h4, h5, h6, td, th, blockquote")) {
    node.dir = "auto";
  }
  return fragment;
}
